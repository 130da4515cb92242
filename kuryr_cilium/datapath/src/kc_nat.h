/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Writing other addresses and ports into a packet. */
#ifndef KC_NAT_H
#define KC_NAT_H

#include <stddef.h>
#include "kc_event.h"
#include "kc_parse.h"

/* Offset of the checksum in a transport header; 0: it does not cover IP. */
static __always_inline __u32 kc_sum_at(__u8 proto)
{
	if (proto == IPPROTO_TCP)
		return 16;
	if (proto == IPPROTO_UDP || proto == IPPROTO_UDPLITE)
		return 6;
	return 0;
}

/* Offset of an address in an IP header. */
static __always_inline __u32 kc_address_at(bool v6, bool source)
{
	if (v6)
		return source ? offsetof(struct ipv6hdr, saddr) :
				offsetof(struct ipv6hdr, daddr);
	return source ? offsetof(struct iphdr, saddr) :
			offsetof(struct iphdr, daddr);
}

/* What a sum changes by if one address takes another's place (RFC 1624). */
static __always_inline __u32 kc_sum_diff(const __u8 *from, const __u8 *to)
{
	const __u32 *x = (const __u32 *)from, *y = (const __u32 *)to;
	__u64 sum = 0;
	int i;

#pragma unroll
	for (i = 0; i < 4; i++)
		sum += (__u64)(__u32)~x[i] + y[i];
	sum = (sum >> 32) + (__u32)sum;
	return (sum >> 32) + (__u32)sum;
}

static __always_inline __u16 kc_sum_add(__u16 check, __u32 diff)
{
	__u32 sum = (__u16)~check + (diff >> 16) + (diff & 0xffff);

	sum = (sum >> 16) + (sum & 0xffff);
	return ~((sum >> 16) + (sum & 0xffff));
}

/*
 * Write the addresses of the packet of this call into its frame, and its ports
 * if they follow. To write is to call a helper, so it is done once: in IPv4
 * from the word on in which the checksum is (diff is what it changes by).
 *
 * A network card may have summed up all of it (CHECKSUM_COMPLETE). In IPv4 the
 * header's own checksum makes up for the addresses. In IPv6 nothing does: the
 * helper that adds them to the checksum of the transport header takes them out
 * of the card's sum too, as if they were no part of it. BPF_F_RECOMPUTE_CSUM
 * puts in what is written; flags has it for ports if no checksum covers them.
 */
static __always_inline long kc_store(struct __sk_buff *skb,
				     const struct kc_packet *p, __u32 diff,
				     bool ports, __u64 flags)
{
	const __u32 at = ETH_HLEN + 8;
	__u32 words[4];
	__u16 *check;

	_Static_assert(offsetof(struct iphdr, check) == 10 &&
		       offsetof(struct ipv6hdr, saddr) == 8,
		       "as in the headers");
	if (p->flags & KC_PACKET_V6) {
		if (bpf_skb_store_bytes(skb, at, p->saddr, 32,
					BPF_F_RECOMPUTE_CSUM))
			return -1;
		return ports ? bpf_skb_store_bytes(skb, at + 32, &p->sport, 4,
						   flags) : 0;
	}
	if (kc_load(skb, at, words, 1))
		return -1;
	check = (__u16 *)words + 1;
	*check = kc_sum_add(*check, diff);
	__builtin_memcpy(&words[1], p->saddr + 12, 4);
	__builtin_memcpy(&words[2], p->daddr + 12, 4);
	__builtin_memcpy(&words[3], &p->sport, 4);
	return ports ? bpf_skb_store_bytes(skb, at, words, 16, flags) :
		       bpf_skb_store_bytes(skb, at, words, 12, 0);
}

/*
 * Replace the source (or destination) of the packet of this call by c->source
 * (c->backend), in the frame and in what was read of it. A later fragment has
 * no ports. Returns 0 or the reason to drop.
 */
__noinline int kc_rewrite(struct __sk_buff *skb, bool source)
{
	struct kc_call *c = kc_this_call();
	const struct kc_nat *to;
	__u32 sum, sum_at, diff;
	struct kc_packet *p;
	bool v6, ports;
	__u16 check;
	__u64 flags;
	__be16 *port;
	__u8 *addr;

	if (!c || !skb)
		return KC_DROP_INTERNAL;
	p = &c->packet;
	to = source ? &c->source : &c->backend;
	addr = source ? p->saddr : p->daddr;
	port = source ? &p->sport : &p->dport;
	v6 = p->flags & KC_PACKET_V6;
	if (kc_mapped(to->addr) == v6)
		return KC_DROP_INTERNAL;
	ports = !(p->frag & KC_IP_OFFSET) && *port != to->port;
	/* The checksum of SCTP is over all of the packet (RFC 9260 6.8). */
	if (ports && p->proto == IPPROTO_SCTP)
		return KC_DROP_INTERNAL;
	sum_at = p->frag & KC_IP_OFFSET ? 0 : kc_sum_at(p->proto);
	sum = p->l4 + sum_at;
	flags = 0;
	if (p->proto == IPPROTO_UDP && sum_at) {
		flags = BPF_F_MARK_MANGLED_0;
		if (bpf_skb_load_bytes(skb, sum, &check, 2))
			return KC_DROP_INTERNAL;
		if (!check)
			sum_at = 0;	/* none (RFC 768) */
	}
	diff = kc_sum_diff(addr, to->addr);
	if (sum_at && (bpf_l4_csum_replace(skb, sum, 0, diff,
					   flags | BPF_F_PSEUDO_HDR) ||
		       (ports && bpf_l4_csum_replace(skb, sum, *port, to->port,
						     flags | 2))))
		return KC_DROP_INTERNAL;
	kc_copy16(addr, to->addr);
	*port = to->port;
	flags = sum_at ? 0 : BPF_F_RECOMPUTE_CSUM;
	if (p->l4 != ETH_HLEN + (v6 ? sizeof(struct ipv6hdr) :
				      sizeof(struct iphdr)) && ports) {
		if (bpf_skb_store_bytes(skb, p->l4 + (source ? 0 : 2),
					&to->port, 2, flags))
			return KC_DROP_INTERNAL;
		ports = false;
	}
	if (kc_store(skb, p, diff, ports, flags))
		return KC_DROP_INTERNAL;
	if (source)
		return 0;
	p->port = to->port;
	if (kc_zero_mac(to->mac))
		return 0;
	__builtin_memcpy(p->dmac, to->mac, 6);
	return bpf_skb_store_bytes(skb, 0, to->mac, 6, 0) ? KC_DROP_INTERNAL :
	       0;
}

/*
 * The same for an ICMP error: the address stands in its own header and in the
 * packet that it quotes, which went the other way. The sum of a quoted IPv4
 * header takes back what the address adds to the sum of the message; the sum
 * of a quoted transport header stays wrong, as with routers (RFC 5508 4.2).
 */
__noinline int kc_rewrite_error(struct __sk_buff *skb, bool source)
{
	struct kc_call *c = kc_this_call();
	struct kc_packet *p, *quoted;
	const struct kc_nat *to;
	__u8 *outer, *inner;
	__u32 sum, at;
	__be16 *port;
	__s64 diff;
	bool v6;

	if (!c || !skb)
		return KC_DROP_INTERNAL;
	p = &c->packet;
	quoted = &c->quoted;
	v6 = p->flags & KC_PACKET_V6;
	to = source ? &c->source : &c->backend;
	outer = source ? p->saddr : p->daddr;
	inner = source ? quoted->daddr : quoted->saddr;
	port = source ? &quoted->dport : &quoted->sport;
	sum = p->l4 + 2;
	at = p->l4 + 8;
	if (kc_mapped(to->addr) == v6)
		return KC_DROP_INTERNAL;
	diff = bpf_csum_diff((__be32 *)inner, 16, (__be32 *)to->addr, 16, 0);
	/* Of a router on the way it stays: it has not been translated. */
	if (kc_same16(outer, inner)) {
		if (v6 ? bpf_l4_csum_replace(skb, sum, 0, diff,
					     BPF_F_PSEUDO_HDR) :
			 bpf_l3_csum_replace(skb, ETH_HLEN +
					     offsetof(struct iphdr, check), 0,
					     diff, 0))
			return KC_DROP_INTERNAL;
		/* See kc_store(). */
		if (v6 ? bpf_skb_store_bytes(skb, ETH_HLEN +
					     kc_address_at(true, source),
					     to->addr, 16,
					     BPF_F_RECOMPUTE_CSUM) :
			 bpf_skb_store_bytes(skb, ETH_HLEN +
					     kc_address_at(false, source),
					     to->addr + 12, 4, 0))
			return KC_DROP_INTERNAL;
		kc_copy16(outer, to->addr);
	}
	if (v6 ? bpf_l4_csum_replace(skb, sum, 0, diff, 0) :
		 bpf_l3_csum_replace(skb, at + offsetof(struct iphdr, check),
				     0, diff, 0))
		return KC_DROP_INTERNAL;
	if (v6 ? bpf_skb_store_bytes(skb, at + kc_address_at(true, !source),
				     to->addr, 16, 0) :
		 bpf_skb_store_bytes(skb, at + kc_address_at(false, !source),
				     to->addr + 12, 4, 0))
		return KC_DROP_INTERNAL;
	kc_copy16(inner, to->addr);
	if (*port == to->port)
		return 0;
	if (bpf_l4_csum_replace(skb, sum, *port, to->port, 2) ||
	    bpf_skb_store_bytes(skb, quoted->l4 + (source ? 2 : 0), &to->port,
				2, 0))
		return KC_DROP_INTERNAL;
	*port = to->port;
	return 0;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Answering for who is not there: a TCP reset (RFC 9293 3.5.2), else an ICMP
 * error, port unreachable (RFC 792; RFC 4443 3.1). Back to the pod at once, so
 * that it does not wait.
 */
#ifndef KC_REJECT_H
#define KC_REJECT_H

#include "kc_hop.h"

#define KC_TTL 64
/* Of a refused packet at most so much is quoted. */
#define KC_QUOTE 48

/* Sum of 16-bit words folded to the checksum (RFC 1071). */
static __always_inline __sum16 kc_fold(__s64 sum)
{
	__u32 x = sum;

	x = (x & 0xffff) + (x >> 16);
	x = (x & 0xffff) + (x >> 16);
	return ~x;
}

static __always_inline void kc_reply_ip(struct kc_call *c, __u8 proto, __u16 size)
{
	struct kc_packet *p = &c->packet;
	struct iphdr *ip = (void *)c->reply;
	struct ipv6hdr *ip6 = (void *)c->reply;

	if (p->flags & KC_PACKET_V6) {
		__builtin_memset(ip6, 0, sizeof(*ip6));
		ip6->version = 6;
		ip6->payload_len = bpf_htons(size);
		ip6->nexthdr = proto;
		ip6->hop_limit = KC_TTL;
		kc_copy16((__u8 *)&ip6->saddr, p->daddr);
		kc_copy16((__u8 *)&ip6->daddr, p->saddr);
		return;
	}
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(sizeof(*ip) + size);
	ip->frag_off = bpf_htons(0x4000);	/* don't fragment */
	ip->ttl = KC_TTL;
	ip->protocol = proto;
	__builtin_memcpy(&ip->saddr, p->daddr + 12, 4);
	__builtin_memcpy(&ip->daddr, p->saddr + 12, 4);
	ip->check = kc_fold(bpf_csum_diff(NULL, 0, (__be32 *)ip, sizeof(*ip),
					  0));
}

/* Sum over the pseudo header (RFC 8200 8.1, the same sum for IPv4). */
static __always_inline __s64 kc_pseudo(struct kc_call *c, __u8 proto,
				       __u16 size)
{
	struct kc_packet *p = &c->packet;
	__be32 rest[2] = { bpf_htonl(size), bpf_htonl(proto) };
	__u32 skip = p->flags & KC_PACKET_V6 ? 0 : 12;
	__s64 sum;

	if (skip) {
		sum = bpf_csum_diff(NULL, 0, (__be32 *)(p->saddr + 12), 4, 0);
		sum = bpf_csum_diff(NULL, 0, (__be32 *)(p->daddr + 12), 4, sum);
	} else {
		sum = bpf_csum_diff(NULL, 0, (__be32 *)p->saddr, 16, 0);
		sum = bpf_csum_diff(NULL, 0, (__be32 *)p->daddr, 16, sum);
	}
	return bpf_csum_diff(NULL, 0, rest, 8, sum);
}

struct kc_tcp {
	__be16 sport;
	__be16 dport;
	__be32 seq;
	__be32 ack;
	__u8 offset;
	__u8 flags;
	__be16 window;
	__sum16 check;
	__be16 urgent;
};

/* The size of the reset in c->reply; 0: there is none for this packet. */
static __always_inline __u32 kc_reset(struct __sk_buff *skb, struct kc_call *c,
				      bool v6)
{
	struct kc_packet *p = &c->packet;
	struct kc_tcp old, *tcp;

	if (p->tcp_flags & KC_TCP_RST ||
	    bpf_skb_load_bytes(skb, p->l4, &old, sizeof(old)))
		return 0;
	kc_reply_ip(c, IPPROTO_TCP, sizeof(*tcp));
	tcp = (void *)(c->reply + (v6 ? sizeof(struct ipv6hdr) :
				   sizeof(struct iphdr)));
	__builtin_memset(tcp, 0, sizeof(*tcp));
	tcp->sport = old.dport;
	tcp->dport = old.sport;
	tcp->offset = 5 << 4;
	/* Only what opens a connection is refused: SYN counts as one. */
	tcp->flags = KC_TCP_RST | KC_TCP_ACK;
	tcp->ack = bpf_htonl(bpf_ntohl(old.seq) + 1 +
			     (p->end - p->l4 - (old.offset >> 4) * 4));
	tcp->check = kc_fold(bpf_csum_diff(
		NULL, 0, (__be32 *)tcp, sizeof(*tcp),
		kc_pseudo(c, IPPROTO_TCP, sizeof(*tcp))));
	return (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) +
	       sizeof(*tcp);
}

/* The size of the error in c->reply; 0: there is none for this packet. */
static __always_inline __u32 kc_unreachable(struct __sk_buff *skb,
					    struct kc_call *c, bool v6)
{
	const __u32 quote = v6 ? KC_QUOTE : KC_QUOTE - 20;
	const __u32 at = v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	struct kc_packet *p = &c->packet;
	__u8 *icmp = c->reply + at;
	__u8 proto = v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
	__s64 sum = 0;

	if (ETH_HLEN + quote > p->end)
		return 0;
	kc_reply_ip(c, proto, 8 + quote);
	__builtin_memset(icmp, 0, 8);
	icmp[0] = v6 ? 1 : ICMP_DEST_UNREACH;
	icmp[1] = v6 ? 4 : 3;
	if (v6)
		sum = kc_pseudo(c, proto, 8 + quote);
	if (bpf_skb_load_bytes(skb, ETH_HLEN, icmp + 8, quote))
		return 0;
	*(__sum16 *)(icmp + 2) = kc_fold(bpf_csum_diff(NULL, 0, (__be32 *)icmp,
						       8 + quote, sum));
	return at + 8 + quote;
}

/* Make the frame the answer to itself. Returns 0 or that there is none. */
__noinline int kc_refuse(struct __sk_buff *skb)
{
	struct kc_call *c = kc_this_call();
	struct kc_packet *p;
	__u32 size;
	bool v6;

	if (!c || !skb)
		return 1;
	p = &c->packet;
	v6 = p->flags & KC_PACKET_V6;
	if (p->frag & KC_IP_OFFSET)
		return 1;
	if (p->proto == IPPROTO_TCP)
		size = v6 ? kc_reset(skb, c, true) : kc_reset(skb, c, false);
	else
		size = v6 ? kc_unreachable(skb, c, true) :
			    kc_unreachable(skb, c, false);
	if (!size || size > sizeof(c->reply) ||
	    bpf_skb_change_tail(skb, ETH_HLEN + size, 0) ||
	    bpf_skb_store_bytes(skb, 0, p->smac, 6, 0) ||
	    bpf_skb_store_bytes(skb, 6, p->dmac, 6, 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, c->reply, size,
				BPF_F_INVALIDATE_HASH))
		return 1;
	return 0;
}

/* Drop, and tell the pod. */
static __always_inline int kc_reject(struct __sk_buff *skb, __u32 ifindex)
{
	int dropped = kc_drop(skb, false, KC_DROP_NO_BACKEND);

	if (kc_refuse(skb))
		return dropped;
	bpf_skb_change_type(skb, KC_TYPE_HOST);
	return bpf_redirect_peer(ifindex, 0);
}

#endif

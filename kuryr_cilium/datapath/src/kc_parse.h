/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * From the bytes of a frame to struct kc_packet.
 *
 * Every function returns 0 or the reason to drop; what was read until then is
 * in the packet, for the event.
 */
#ifndef KC_PARSE_H
#define KC_PARSE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include "kc_packet.h"

#define KC_EXTENSIONS 6

#define KC_TCP_FIN 0x01
#define KC_TCP_SYN 0x02
#define KC_TCP_RST 0x04
#define KC_TCP_ACK 0x10

#define KC_SCTP_INIT 1		/* chunk types, RFC 9260 3.2 */
#define KC_SCTP_ABORT 6
#define KC_SCTP_SHUTDOWN_COMPLETE 14

/* ICMP types (RFC 792). <linux/icmp.h> needs headers of a 32-bit libc. */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_REDIRECT 5
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12

/* ICMPv6 types (RFC 4443, 4861, 2710, 3810). */
#define KC_ICMP6_ECHO_REQUEST 128
#define KC_ICMP6_ECHO_REPLY 129
#define KC_MLD_QUERY 130
#define KC_MLD_REPORT 131
#define KC_MLD_DONE 132
#define KC_ND_RS 133
#define KC_ND_RA 134
#define KC_ND_NS 135
#define KC_ND_NA 136
#define KC_ND_REDIRECT 137
#define KC_MLD2_REPORT 143

static __always_inline void kc_map4(__u8 *to, __be32 address)
{
	__u32 *x = (__u32 *)to;

	x[0] = 0;
	x[1] = 0;
	x[2] = bpf_htonl(0xffff);
	x[3] = address;
}

static __always_inline bool kc_mapped(const __u8 *address)
{
	const __u32 *x = (const __u32 *)address;

	return !(x[0] | x[1]) && x[2] == bpf_htonl(0xffff);
}

static __always_inline bool kc_is_icmp(__u8 proto)
{
	return proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6;
}

/* Whether policy may ask for a port (of ICMP: type and code). */
static __always_inline bool kc_has_port(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP ||
	       proto == IPPROTO_SCTP || proto == IPPROTO_UDPLITE ||
	       kc_is_icmp(proto);
}

/*
 * Copy words of 32 bits; from a packet's linear part if they are there. The
 * offset is a constant.
 */
static __always_inline int kc_load(struct __sk_buff *skb, __u32 offset,
				   __u32 *to, const int words)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 *from;
	int i;

	from = data + offset;
	if ((void *)(from + words) > end)
		return bpf_skb_load_bytes(skb, offset, to, words * 4);
#pragma unroll
	for (i = 0; i < words; i++)
		to[i] = from[i];
	return 0;
}

/* The same for where transport headers are as a rule, or anywhere. */
static __always_inline int kc_load_l4(struct __sk_buff *skb, __u32 offset,
				      __u32 *to, const int words)
{
	const __u32 v4 = ETH_HLEN + sizeof(struct iphdr);
	const __u32 v6 = ETH_HLEN + sizeof(struct ipv6hdr);

	if (offset == v4)
		return kc_load(skb, v4, to, words);
	if (offset == v6)
		return kc_load(skb, v6, to, words);
	return bpf_skb_load_bytes(skb, offset, to, words * 4);
}

static __always_inline int kc_parse_icmp(struct kc_packet *p, const __u8 *h)
{
	bool v6 = p->proto == IPPROTO_ICMPV6;
	__u8 type = h[0];

	p->icmp_type = type;
	p->port = *(const __be16 *)h;
	p->dport = p->port;
	if (type == (v6 ? KC_ICMP6_ECHO_REQUEST : ICMP_ECHO)) {
		p->flags |= KC_PACKET_ECHO | KC_PACKET_OPENING;
		p->sport = p->dport = *(const __be16 *)(h + 4);
	} else if (type == (v6 ? KC_ICMP6_ECHO_REPLY : ICMP_ECHOREPLY)) {
		p->flags |= KC_PACKET_ECHO | KC_PACKET_ANSWER;
		p->sport = p->dport = *(const __be16 *)(h + 4);
	} else if (type == 255) {
		/* Reserved; as a port it would be an enum kc_echo. */
		return KC_DROP_MALFORMED;
	} else if (v6 ? (type >= KC_MLD_QUERY && type <= KC_ND_REDIRECT) ||
			type == KC_MLD2_REPORT : false) {
		p->flags |= KC_PACKET_ND;
	} else if (v6 ? type < KC_ICMP6_ECHO_REQUEST :
		   type == ICMP_DEST_UNREACH || type == ICMP_SOURCE_QUENCH ||
		   type == ICMP_REDIRECT || type == ICMP_TIME_EXCEEDED ||
		   type == ICMP_PARAMETERPROB) {
		p->flags |= KC_PACKET_ERROR;
	}
	return 0;
}

/*
 * The transport header. Of a packet that an ICMP error quotes only 8 bytes
 * are certain to be there (RFC 792).
 */
static __always_inline int kc_parse_l4(struct __sk_buff *skb,
				       struct kc_packet *p, bool quoted)
{
	__u32 h[4], need = 8;

	if (!kc_has_port(p->proto))
		return 0;
	/* ICMP of the other family is a protocol without a meaning. */
	if (kc_is_icmp(p->proto) && (p->proto == IPPROTO_ICMPV6) !=
				    !!(p->flags & KC_PACKET_V6))
		return KC_DROP_MALFORMED;
	if (!quoted && p->proto == IPPROTO_TCP)
		need = 20;
	else if (!quoted && p->proto == IPPROTO_SCTP)
		need = 16;
	if (p->l4 + need > p->end)
		return KC_DROP_TRUNCATED;
	if (need == 8 ? kc_load_l4(skb, p->l4, h, 2) :
			kc_load_l4(skb, p->l4, h, 4))
		return KC_DROP_TRUNCATED;
	if (kc_is_icmp(p->proto))
		return kc_parse_icmp(p, (__u8 *)h);
	p->sport = ((__be16 *)h)[0];
	p->dport = ((__be16 *)h)[1];
	p->port = p->dport;
	if (need == 20) {
		__u8 flags = ((__u8 *)h)[13];

		p->tcp_flags = flags;
		if (flags & KC_TCP_SYN) {
			if (flags & (KC_TCP_FIN | KC_TCP_RST))
				return KC_DROP_MALFORMED;
			if (!(flags & KC_TCP_ACK))
				p->flags |= KC_PACKET_OPENING;
		}
	} else if (need == 16) {
		__u8 chunk = ((__u8 *)h)[12];

		if (chunk == KC_SCTP_INIT)
			p->flags |= KC_PACKET_OPENING;
		else if (chunk == KC_SCTP_ABORT ||
			 chunk == KC_SCTP_SHUTDOWN_COMPLETE)
			p->tcp_flags = KC_TCP_RST;
	}
	/* Only an opening packet opens these. */
	if ((p->proto == IPPROTO_TCP || p->proto == IPPROTO_SCTP) &&
	    !(p->flags & KC_PACKET_OPENING))
		p->flags |= KC_PACKET_ANSWER;
	return 0;
}

/*
 * A packet that names the routers on its way comes out where its destination
 * does not say (RFC 7126).
 */
__noinline int kc_parse_options(struct __sk_buff *skb, __u32 size)
{
	struct kc_call *c = kc_this_call();
	__u8 type, length;
	__u32 i, n;

	if (!c)
		return KC_DROP_INTERNAL;
	if (size < 4)
		return KC_DROP_MALFORMED;
	/*
	 * The compiler would make one comparison of the two, of size - 41: Linux
	 * 6.12 doesn't conclude from that what size is.
	 */
	asm volatile("" : "+r"(size));
	if (size > sizeof(c->options))
		return KC_DROP_MALFORMED;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct iphdr), c->options,
			       size))
		return KC_DROP_TRUNCATED;
	c->option = 0;
	for (n = 0; n < sizeof(c->options); n++) {
		kc_forget();
		i = c->option;
		if (i >= size || i >= sizeof(c->options))
			return 0;
		type = c->options[i];
		if (type == 131 || type == 137)	/* LSRR, SSRR */
			return KC_DROP_SOURCE_ROUTE;
		if (!type)			/* end of the list */
			return 0;
		if (type == 1) {		/* no operation */
			c->option = i + 1;
			continue;
		}
		if (++i >= size || i >= sizeof(c->options))
			return KC_DROP_MALFORMED;
		length = c->options[i];
		if (length < 2)
			return KC_DROP_MALFORMED;
		c->option = i - 1 + length;
	}
	return 0;
}

/* p->end is the end of what there is. */
static __always_inline int kc_parse_ipv4(struct __sk_buff *skb,
					 struct kc_packet *p, __u32 offset,
					 bool quoted)
{
	__u32 h[5], size, total;
	struct iphdr *ip = (void *)h;

	if (quoted ? bpf_skb_load_bytes(skb, offset, h, sizeof(h)) :
		     kc_load(skb, ETH_HLEN, h, 5))
		return KC_DROP_TRUNCATED;
	kc_map4(p->saddr, ip->saddr);
	kc_map4(p->daddr, ip->daddr);
	p->proto = ip->protocol;
	p->hop_limit = ip->ttl;
	p->frag = bpf_ntohs(ip->frag_off) & (KC_IP_MF | KC_IP_OFFSET);
	p->frag_id = ip->id;
	/* 224.0.0.0/4 and 255.255.255.255. */
	if ((ip->daddr & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) ||
	    ip->daddr == bpf_htonl(0xffffffff))
		p->flags |= KC_PACKET_GROUP;
	size = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (!total && skb->gso_size)
		total = p->end - offset;	/* longer than a field tells */
	if (ip->version != 4 || size < sizeof(*ip) || total < size)
		return KC_DROP_MALFORMED;
	p->l4 = offset + size;
	if (quoted)
		return p->l4 > p->end ? KC_DROP_TRUNCATED : 0;
	if (offset + total > p->end)
		return KC_DROP_TRUNCATED;
	p->end = offset + total;
	if (size > sizeof(*ip))
		return kc_parse_options(skb, size - sizeof(*ip));
	return 0;
}

static __always_inline bool kc_is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING ||
	       next == IPPROTO_FRAGMENT || next == IPPROTO_DSTOPTS ||
	       next == IPPROTO_AH;
}

/* From the first extension header (proto, at l4) to the transport header. */
__noinline int kc_parse_extensions(struct __sk_buff *skb, bool quoted)
{
	struct kc_call *c = kc_this_call();
	struct kc_packet *p;
	__u32 size;
	__u8 h[8];
	int i;

	if (!c)
		return KC_DROP_INTERNAL;
	p = quoted ? &c->quoted : &c->packet;
	for (i = 0; i < KC_EXTENSIONS; i++) {
		kc_forget();
		if (p->l4 + sizeof(h) > p->end ||
		    bpf_skb_load_bytes(skb, p->l4, h, sizeof(h)))
			return KC_DROP_TRUNCATED;
		size = (h[1] + 1) * 8;
		if (p->proto == IPPROTO_FRAGMENT) {
			/* RFC 8200 4.5: the offset in 13 bits, then M. */
			__u16 field = h[2] << 8 | h[3];

			if (p->frag)
				return KC_DROP_MALFORMED;
			p->frag = field >> 3 | (field & 1 ? KC_IP_MF : 0);
			__builtin_memcpy(&p->frag_id, h + 4, 4);
			size = 8;
		} else if (p->proto == IPPROTO_AH) {
			size = (h[1] + 2) * 4;
		} else if (p->proto == IPPROTO_ROUTING && h[3]) {
			return KC_DROP_SOURCE_ROUTE;
		}
		p->proto = h[0];
		p->l4 += size;
		kc_forget();
		if (p->l4 > p->end)
			return KC_DROP_TRUNCATED;
		/* What follows in a later fragment is no header. */
		if (p->frag & KC_IP_OFFSET || !kc_is_extension(p->proto))
			return 0;
	}
	return KC_DROP_EXTENSIONS;
}

static __always_inline int kc_parse_ipv6(struct __sk_buff *skb,
					 struct kc_packet *p, __u32 offset,
					 bool quoted)
{
	__u32 h[10], total;
	struct ipv6hdr *ip = (void *)h;

	p->flags |= KC_PACKET_V6;
	if (quoted ? bpf_skb_load_bytes(skb, offset, h, sizeof(h)) :
		     kc_load(skb, ETH_HLEN, h, 10))
		return KC_DROP_TRUNCATED;
	kc_copy16(p->saddr, (__u8 *)&ip->saddr);
	kc_copy16(p->daddr, (__u8 *)&ip->daddr);
	p->proto = ip->nexthdr;
	p->hop_limit = ip->hop_limit;
	p->l4 = offset + sizeof(*ip);
	if (p->daddr[0] == 0xff)
		p->flags |= KC_PACKET_GROUP;
	/* A mapped address would be taken for IPv4 in keys. */
	if (ip->version != 6 || kc_mapped(p->saddr) || kc_mapped(p->daddr))
		return KC_DROP_MALFORMED;
	if (!quoted) {
		total = bpf_ntohs(ip->payload_len);
		if (total || !skb->gso_size) {
			if (p->l4 + total > p->end)
				return KC_DROP_TRUNCATED;
			p->end = p->l4 + total;
		}
	}
	return kc_is_extension(p->proto) ? kc_parse_extensions(skb, quoted) : 0;
}

/* Addresses and type, and all of IP; not the inside of ARP and ND. */
__noinline int kc_parse(struct __sk_buff *skb)
{
	struct kc_call *c = kc_this_call();
	struct kc_packet *p;
	__u32 h[4];
	int reason;

	if (!c)
		return KC_DROP_INTERNAL;
	p = &c->packet;
	__builtin_memset(p, 0, sizeof(*p));
	p->length = p->end = skb->len;
	/* With the first two bytes of what is in the frame. */
	if (kc_load(skb, 0, h, 4))
		return KC_DROP_TRUNCATED;
	__builtin_memcpy(p->dmac, h, 6);
	__builtin_memcpy(p->smac, (__u8 *)h + 6, 6);
	p->ethertype = ((__be16 *)h)[6];
	if (skb->vlan_present)
		return KC_DROP_VLAN;
	switch (p->ethertype) {
	case bpf_htons(ETH_P_IP):
		reason = kc_parse_ipv4(skb, p, ETH_HLEN, false);
		break;
	case bpf_htons(ETH_P_IPV6):
		reason = kc_parse_ipv6(skb, p, ETH_HLEN, false);
		break;
	case bpf_htons(ETH_P_ARP):
		return 0;
	case bpf_htons(ETH_P_8021Q):
	case bpf_htons(ETH_P_8021AD):
	case bpf_htons(ETH_P_QINQ1):
		return KC_DROP_VLAN;
	default:
		return KC_DROP_ETHERTYPE;
	}
	if (reason || p->frag & KC_IP_OFFSET)
		return reason;
	return kc_parse_l4(skb, p, false);
}

#endif

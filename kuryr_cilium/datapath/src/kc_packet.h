/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* From the bytes of a frame to what is judged. */
#ifndef KC_PACKET_H
#define KC_PACKET_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include "kc_maps.h"

#define KC_EXTENSIONS 6

#define KC_TCP_FIN 0x01
#define KC_TCP_SYN 0x02
#define KC_TCP_RST 0x04
#define KC_TCP_ACK 0x10

#define KC_IP_MF 0x2000
#define KC_IP_OFFSET 0x1fff

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

enum kc_packet_flag {
	KC_PACKET_OPENING = 1 << 0,	/* asks for a new connection */
	KC_PACKET_REPLY = 1 << 1,	/* can only answer one */
	KC_PACKET_ERROR = 1 << 2,	/* an ICMP error */
	KC_PACKET_ND = 1 << 3,		/* ND or MLD: type in icmp_type */
	KC_PACKET_GROUP = 1 << 4,	/* to a group or to all */
	KC_PACKET_V6 = 1 << 5,
};

/*
 * The ports are those of the connection: for an ICMP echo both are its
 * identifier; for other ICMP dport is type << 8 | code. port is what policy
 * asks: the destination port, or type << 8 | code.
 */
struct kc_packet {
	__u8 saddr[16] __attribute__((aligned(8)));
	__u8 daddr[16];
	__be16 sport;
	__be16 dport;
	__be16 port;
	__be16 ethertype;
	__u32 l4;		/* offset of the transport header */
	__u32 length;
	__u32 frag_id;
	__u16 frag;		/* KC_IP_MF and offset in 8 bytes */
	__u8 proto;
	__u8 flags;		/* enum kc_packet_flag */
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 hop_limit;
	__u8 pad;
	__u8 smac[6];
	__u8 dmac[6];
};

static __always_inline void kc_map4(__u8 *to, __be32 address)
{
	*(__u64 *)to = 0;
	*(__be32 *)(to + 8) = bpf_htonl(0xffff);
	*(__be32 *)(to + 12) = address;
}

static __always_inline bool kc_same16(const __u8 *a, const __u8 *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return x[0] == y[0] && x[1] == y[1];
}

static __always_inline bool kc_same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

static __always_inline int kc_parse_icmp(struct kc_packet *p, const __u8 *h)
{
	__be16 code = *(const __be16 *)h, id = *(const __be16 *)(h + 4);
	bool v6 = p->flags & KC_PACKET_V6;
	__u8 type = h[0];

	p->icmp_type = type;
	p->port = code;
	p->dport = code;
	if (type == (v6 ? KC_ICMP6_ECHO_REQUEST : ICMP_ECHO)) {
		p->flags |= KC_PACKET_OPENING;
		p->sport = p->dport = id;
	} else if (type == (v6 ? KC_ICMP6_ECHO_REPLY : ICMP_ECHOREPLY)) {
		p->flags |= KC_PACKET_REPLY;
		p->sport = p->dport = id;
	} else if (v6 && type >= KC_MLD_QUERY && type <= KC_ND_REDIRECT) {
		p->flags |= KC_PACKET_ND;
	} else if (v6 && type == KC_MLD2_REPORT) {
		p->flags |= KC_PACKET_ND;
	} else if (v6 ? type < KC_ICMP6_ECHO_REQUEST :
		   type == ICMP_DEST_UNREACH || type == ICMP_SOURCE_QUENCH ||
		   type == ICMP_REDIRECT || type == ICMP_TIME_EXCEEDED ||
		   type == ICMP_PARAMETERPROB) {
		p->flags |= KC_PACKET_ERROR;
	}
	return 0;
}

static __always_inline int kc_parse_l4(struct __sk_buff *skb,
				       struct kc_packet *p)
{
	__u8 h[16] __attribute__((aligned(8))) = {};
	__u32 need;

	switch (p->proto) {
	case IPPROTO_TCP:
		need = 20;
		break;
	case IPPROTO_SCTP:
		need = 16;
		break;
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
		need = 8;
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if ((p->proto == IPPROTO_ICMPV6) != !!(p->flags & KC_PACKET_V6))
			return 0;
		need = 8;
		break;
	default:
		return 0;
	}
	if (p->l4 + need > skb->len)
		return KC_DROP_TRUNCATED;
	if (need == 8) {
		if (bpf_skb_load_bytes(skb, p->l4, h, 8))
			return KC_DROP_TRUNCATED;
	} else if (bpf_skb_load_bytes(skb, p->l4, h, 16)) {
		return KC_DROP_TRUNCATED;
	}
	if (p->proto == IPPROTO_ICMP || p->proto == IPPROTO_ICMPV6)
		return kc_parse_icmp(p, h);
	p->sport = *(__be16 *)h;
	p->dport = *(__be16 *)(h + 2);
	p->port = p->dport;
	if (p->proto == IPPROTO_TCP) {
		p->tcp_flags = h[13];
		if (p->tcp_flags & KC_TCP_SYN) {
			if (p->tcp_flags & (KC_TCP_FIN | KC_TCP_RST))
				return KC_DROP_MALFORMED;
			if (!(p->tcp_flags & KC_TCP_ACK))
				p->flags |= KC_PACKET_OPENING;
		}
	} else if (p->proto == IPPROTO_SCTP && h[12] == 1) {
		p->flags |= KC_PACKET_OPENING;	/* INIT, RFC 9260 3.3.2 */
	}
	return 0;
}

static __always_inline int kc_parse_ipv4(struct __sk_buff *skb,
					 struct kc_packet *p)
{
	struct iphdr ip;
	__u16 frag;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return KC_DROP_TRUNCATED;
	if (ip.version != 4 || ip.ihl < 5)
		return KC_DROP_MALFORMED;
	kc_map4(p->saddr, ip.saddr);
	kc_map4(p->daddr, ip.daddr);
	p->proto = ip.protocol;
	p->hop_limit = ip.ttl;
	p->l4 = ETH_HLEN + ip.ihl * 4;
	if (p->l4 > skb->len)
		return KC_DROP_TRUNCATED;
	frag = bpf_ntohs(ip.frag_off);
	p->frag = frag & (KC_IP_MF | KC_IP_OFFSET);
	p->frag_id = ip.id;
	/* 224.0.0.0/4 and 255.255.255.255. */
	if ((ip.daddr & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) ||
	    ip.daddr == bpf_htonl(0xffffffff))
		p->flags |= KC_PACKET_GROUP;
	return 0;
}

static __always_inline bool kc_mapped(const __u8 *address)
{
	const __u64 *x = (const __u64 *)address;

	return !x[0] && *(const __u32 *)(address + 8) == bpf_htonl(0xffff);
}

static __always_inline int kc_parse_ipv6(struct __sk_buff *skb,
					 struct kc_packet *p)
{
	struct {
		__u8 next;
		__u8 length;
		__be16 offset;
		__be32 id;
	} ext;
	struct ipv6hdr ip;
	__u32 offset = ETH_HLEN + sizeof(ip);
	__u8 next;
	int i;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return KC_DROP_TRUNCATED;
	if (ip.version != 6)
		return KC_DROP_MALFORMED;
	__builtin_memcpy(p->saddr, &ip.saddr, 16);
	__builtin_memcpy(p->daddr, &ip.daddr, 16);
	/* They would be taken for IPv4 in keys. */
	if (kc_mapped(p->saddr) || kc_mapped(p->daddr))
		return KC_DROP_MALFORMED;
	p->flags |= KC_PACKET_V6;
	p->hop_limit = ip.hop_limit;
	if (p->daddr[0] == 0xff)
		p->flags |= KC_PACKET_GROUP;
	next = ip.nexthdr;
	for (i = 0; i <= KC_EXTENSIONS; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING &&
		    next != IPPROTO_FRAGMENT && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_AH) {
			p->proto = next;
			p->l4 = offset;
			return 0;
		}
		if (i == KC_EXTENSIONS)
			break;
		if (bpf_skb_load_bytes(skb, offset, &ext, sizeof(ext)))
			return KC_DROP_TRUNCATED;
		if (next == IPPROTO_FRAGMENT) {
			/* RFC 8200 4.5: offset in the upper 13 bits, then M. */
			__u16 field = bpf_ntohs(ext.offset);

			if (p->frag)
				return KC_DROP_MALFORMED;
			p->frag = field >> 3 | (field & 1 ? KC_IP_MF : 0);
			p->frag_id = ext.id;
			offset += 8;
			next = ext.next;
			if (p->frag & KC_IP_OFFSET) {
				/* What follows is no header. */
				p->proto = next;
				p->l4 = offset;
				return 0;
			}
			continue;
		}
		offset += next == IPPROTO_AH ? (ext.length + 2) * 4 :
			  (ext.length + 1) * 8;
		next = ext.next;
	}
	return KC_DROP_EXTENSIONS;
}

/*
 * Fragments carry no ports but in the first: remember them. A first fragment
 * holds the whole transport header, or it drops as truncated (RFC 1858, 7112).
 */
static __always_inline int kc_fragment(struct kc_packet *p, __u32 endpoint)
{
	struct kc_frag_key key = { .endpoint = endpoint, .id = p->frag_id,
				   .proto = p->proto };
	struct kc_frag *known, ports;

	__builtin_memcpy(key.saddr, p->saddr, 16);
	__builtin_memcpy(key.daddr, p->daddr, 16);
	if (p->frag & KC_IP_OFFSET) {
		if (p->proto == IPPROTO_TCP && (p->frag & KC_IP_OFFSET) == 1)
			return KC_DROP_FRAGMENT_OVERLAP;
		known = bpf_map_lookup_elem(&kc_frag_v1, &key);
		if (!known)
			return KC_DROP_FRAGMENT;
		p->sport = known->sport;
		p->dport = known->dport;
		p->port = known->dport;
		return 0;
	}
	ports.sport = p->sport;
	ports.dport = p->dport;
	bpf_map_update_elem(&kc_frag_v1, &key, &ports, BPF_ANY);
	return 0;
}

/* Ethernet only: addresses and type. */
static __always_inline int kc_parse_ethernet(struct __sk_buff *skb,
					     struct kc_packet *p)
{
	struct ethhdr eth;

	__builtin_memset(p, 0, sizeof(*p));
	p->length = skb->len;
	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return KC_DROP_TRUNCATED;
	__builtin_memcpy(p->smac, eth.h_source, 6);
	__builtin_memcpy(p->dmac, eth.h_dest, 6);
	p->ethertype = eth.h_proto;
	if (skb->vlan_present || eth.h_proto == bpf_htons(ETH_P_8021Q) ||
	    eth.h_proto == bpf_htons(ETH_P_8021AD) ||
	    eth.h_proto == bpf_htons(ETH_P_QINQ1))
		return KC_DROP_VLAN;
	return 0;
}

/* IP and transport; not for ARP. Addresses are valid whatever it returns. */
__noinline int kc_parse_ip(struct __sk_buff *skb, struct kc_packet *p,
				  __u32 endpoint)
{
	int reason;

	if (!p)
		return KC_DROP_MALFORMED;
	if (p->ethertype == bpf_htons(ETH_P_IP))
		reason = kc_parse_ipv4(skb, p);
	else if (p->ethertype == bpf_htons(ETH_P_IPV6))
		reason = kc_parse_ipv6(skb, p);
	else
		return KC_DROP_ETHERTYPE;
	if (reason)
		return reason;
	if (!(p->frag & KC_IP_OFFSET)) {
		reason = kc_parse_l4(skb, p);
		if (reason)
			return reason;
	}
	return p->frag ? kc_fragment(p, endpoint) : 0;
}

#endif

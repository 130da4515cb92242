/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Whose addresses a frame carries: ARP (RFC 826), ND (RFC 4861), MLD. These
 * are not judged by policy.
 */
#ifndef KC_SPOOF_H
#define KC_SPOOF_H

#include "kc_parse.h"

#define KC_ND_OPTIONS 8
#define KC_ND_SOURCE_LLA 1
#define KC_ND_TARGET_LLA 2

/* Index of an address of the endpoint; -1: not its own. */
static __always_inline int kc_owned(const struct kc_endpoint *ep,
				    const __u8 *address)
{
	int i;

	if (kc_zero16(address))
		return -1;
	for (i = 0; i < KC_ADDRS; i++)
		if (kc_same16(ep->addrs[i], address))
			return i;
	return -1;
}

/*
 * The link-local address that the pod's kernel makes of its MAC address
 * (RFC 4291, appendix A). It sends ND and MLD, nothing else: peers could not
 * tell by it which pod it is.
 */
static __always_inline bool kc_link_local(const struct kc_endpoint *ep,
					  const __u8 *a)
{
	return a[0] == 0xfe && a[1] == 0x80 &&
	       !(a[2] | a[3] | a[4] | a[5] | a[6] | a[7]) &&
	       a[8] == (ep->mac[0] ^ 2) && a[9] == ep->mac[1] &&
	       a[10] == ep->mac[2] && a[11] == 0xff && a[12] == 0xfe &&
	       a[13] == ep->mac[3] && a[14] == ep->mac[4] &&
	       a[15] == ep->mac[5];
}

struct kc_arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hlen;
	__u8 plen;
	__be16 operation;
	__u8 smac[6];
	__u8 sip[4];
	__u8 tmac[6];
	__u8 tip[4];
};

/* Returns 0 or the reason to drop, as the others do. */
__noinline int kc_arp_from_pod(struct __sk_buff *skb, __u32 endpoint)
{
	const struct kc_endpoint *ep;
	__u8 address[16] __attribute__((aligned(8)));
	struct kc_arp arp;
	__be32 sender, target;

	ep = bpf_map_lookup_elem(&kc_endpoint_v1, &endpoint);
	if (!ep)
		return KC_DROP_NO_ENDPOINT;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &arp, sizeof(arp)))
		return KC_DROP_TRUNCATED;
	if (arp.hardware != bpf_htons(1) ||
	    arp.protocol != bpf_htons(ETH_P_IP) || arp.hlen != 6 ||
	    arp.plen != 4)
		return KC_DROP_MALFORMED;
	__builtin_memcpy(&sender, arp.sip, 4);
	__builtin_memcpy(&target, arp.tip, 4);
	/* A probe (RFC 5227) has no sender, but asks for its own address. */
	kc_map4(address, sender ? sender : target);
	if (!kc_same_mac(arp.smac, ep->mac) || kc_owned(ep, address) < 0)
		return KC_DROP_SPOOF_ARP;
	return 0;
}

/* Link-layer addresses in the options of ND are the pod's own. */
static __always_inline int kc_nd_options(struct __sk_buff *skb,
					 const struct kc_packet *p,
					 const struct kc_endpoint *ep,
					 __u32 offset)
{
	struct {
		__u8 type;
		__u8 length;
		__u8 mac[6];
	} option;
	int i;

	for (i = 0; i < KC_ND_OPTIONS; i++) {
		if (offset == p->end)
			return 0;
		if (offset + sizeof(option) > p->end ||
		    bpf_skb_load_bytes(skb, offset, &option, sizeof(option)))
			return KC_DROP_TRUNCATED;
		if (!option.length)
			return KC_DROP_MALFORMED;
		if ((option.type == KC_ND_SOURCE_LLA ||
		     option.type == KC_ND_TARGET_LLA) &&
		    !kc_same_mac(option.mac, ep->mac))
			return KC_DROP_SPOOF_ND;
		offset += option.length * 8;
	}
	return offset == p->end ? 0 : KC_DROP_ND;
}

/* What a pod may say: solicitations, MLD reports, and what is its own. */
__noinline int kc_nd_from_pod(struct __sk_buff *skb, __u32 endpoint)
{
	__u8 target[16] __attribute__((aligned(8)));
	struct kc_call *c = kc_this_call();
	const struct kc_endpoint *ep;
	const struct kc_packet *p;
	__u32 options;
	bool anonymous;

	ep = bpf_map_lookup_elem(&kc_endpoint_v1, &endpoint);
	if (!c || !ep)
		return KC_DROP_NO_ENDPOINT;
	p = &c->packet;
	options = p->l4 + 8;
	anonymous = kc_zero16(p->saddr);
	if (p->frag)
		return KC_DROP_ND;	/* RFC 6980 */
	if (!anonymous && kc_owned(ep, p->saddr) < 0 &&
	    !kc_link_local(ep, p->saddr))
		return KC_DROP_SPOOF_IP;
	switch (p->icmp_type) {
	case KC_MLD_REPORT:
	case KC_MLD_DONE:
	case KC_MLD2_REPORT:
		return p->hop_limit == 1 ? 0 : KC_DROP_ND;
	case KC_ND_RS:
		break;
	case KC_ND_NA:
	case KC_ND_NS:
		options += sizeof(target);
		if (options > p->end ||
		    bpf_skb_load_bytes(skb, p->l4 + 8, target, sizeof(target)))
			return KC_DROP_TRUNCATED;
		/* DAD asks for an address of one's own, from none. */
		if ((p->icmp_type == KC_ND_NA || anonymous) &&
		    kc_owned(ep, target) < 0 && !kc_link_local(ep, target))
			return KC_DROP_SPOOF_ND;
		if (p->icmp_type == KC_ND_NA && anonymous)
			return KC_DROP_SPOOF_IP;
		break;
	default:
		return KC_DROP_ND;	/* a router's, or a querier's */
	}
	if (p->hop_limit != 255)
		return KC_DROP_ND;
	return kc_nd_options(skb, p, ep, options);
}

/* What is said to a pod: questions for its addresses, and answers. */
__noinline int kc_nd_to_pod(struct __sk_buff *skb, __u32 endpoint)
{
	__u8 target[16] __attribute__((aligned(8)));
	struct kc_call *c = kc_this_call();
	const struct kc_endpoint *ep;
	const struct kc_packet *p;

	ep = bpf_map_lookup_elem(&kc_endpoint_v1, &endpoint);
	if (!c || !ep)
		return KC_DROP_NO_ENDPOINT;
	p = &c->packet;
	if (p->frag)
		return KC_DROP_ND;
	if (!(p->flags & KC_PACKET_GROUP) && kc_owned(ep, p->daddr) < 0 &&
	    !kc_link_local(ep, p->daddr))
		return KC_DROP_NOT_OURS;
	switch (p->icmp_type) {
	case KC_MLD_QUERY:
	case KC_MLD_REPORT:
	case KC_MLD_DONE:
	case KC_MLD2_REPORT:
		return p->hop_limit == 1 ? 0 : KC_DROP_ND;
	case KC_ND_NS:
		if (p->l4 + 24 > p->end ||
		    bpf_skb_load_bytes(skb, p->l4 + 8, target, sizeof(target)))
			return KC_DROP_TRUNCATED;
		if (kc_owned(ep, target) < 0 && !kc_link_local(ep, target))
			return KC_DROP_NOT_OURS;
		break;
	case KC_ND_NA:
	case KC_ND_RA:
		break;
	default:
		return KC_DROP_ND;
	}
	return p->hop_limit == 255 ? 0 : KC_DROP_ND;
}

#endif

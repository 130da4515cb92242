/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Whose addresses a frame carries: ARP (RFC 826), ND (RFC 4861), MLD. */
#ifndef KC_SPOOF_H
#define KC_SPOOF_H

#include "kc_maps.h"
#include "kc_packet.h"

#define KC_ND_OPTIONS 4
#define KC_ND_SOURCE_LLA 1
#define KC_ND_TARGET_LLA 2

/* Index of an address of the endpoint; -1: not its own. */
static __always_inline int kc_owned(const struct kc_endpoint *ep,
				    const __u8 *address)
{
	const __u64 *x = (const __u64 *)address;
	int i;

	if (!(x[0] | x[1]))
		return -1;
	for (i = 0; i < KC_ADDRS; i++)
		if (kc_same16(ep->addrs[i], address))
			return i;
	return -1;
}

/* The link-local address that the pod's kernel makes of its MAC address
 * (RFC 4291, appendix A): a sender of ND and MLD only.
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

static __always_inline bool kc_unspecified(const __u8 *address)
{
	const __u64 *x = (const __u64 *)address;

	return !(x[0] | x[1]);
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

__noinline int kc_arp_from_pod(struct __sk_buff *skb,
				      struct kc_endpoint *ep)
{
	__u8 sender[16] __attribute__((aligned(8)));
	struct kc_arp arp;
	__be32 ip;

	if (!ep || bpf_skb_load_bytes(skb, ETH_HLEN, &arp, sizeof(arp)))
		return KC_DROP_TRUNCATED;
	if (arp.hardware != bpf_htons(1) || arp.protocol != bpf_htons(ETH_P_IP) ||
	    arp.hlen != 6 || arp.plen != 4)
		return KC_DROP_MALFORMED;
	__builtin_memcpy(&ip, arp.sip, 4);
	kc_map4(sender, ip);
	if (!kc_same_mac(arp.smac, ep->mac) || kc_owned(ep, sender) < 0)
		return KC_DROP_SPOOF_ARP;
	return 0;
}

/*
 * ND and MLD are not judged by policy. From a pod: solicitations,
 * advertisements of its own addresses, MLD reports.
 */
__noinline int kc_nd_from_pod(struct __sk_buff *skb,
				     struct kc_packet *p,
				     struct kc_endpoint *ep)
{
	__u8 target[16] __attribute__((aligned(8)));
	struct {
		__u8 type;
		__u8 length;
		__u8 mac[6];
	} option;
	__u32 offset;
	int i;

	if (!p || !ep)
		return KC_DROP_TABLES;
	if (p->frag)
		return KC_DROP_ND;	/* RFC 6980 */
	if (kc_owned(ep, p->saddr) < 0 && !kc_link_local(ep, p->saddr) &&
	    !kc_unspecified(p->saddr))
		return KC_DROP_SPOOF_IP;
	switch (p->icmp_type) {
	case KC_MLD_REPORT:
	case KC_MLD_DONE:
	case KC_MLD2_REPORT:
		return p->hop_limit == 1 ? 0 : KC_DROP_ND;
	case KC_ND_RS:
		offset = p->l4 + 8;
		break;
	case KC_ND_NS:
	case KC_ND_NA:
		offset = p->l4 + 24;
		if (bpf_skb_load_bytes(skb, p->l4 + 8, target, 16))
			return KC_DROP_TRUNCATED;
		/* DAD asks for an address of one's own. */
		if ((p->icmp_type == KC_ND_NA || kc_unspecified(p->saddr)) &&
		    kc_owned(ep, target) < 0 && !kc_link_local(ep, target))
			return KC_DROP_SPOOF_ND;
		break;
	default:
		return KC_DROP_ND;
	}
	if (p->hop_limit != 255)
		return KC_DROP_ND;
	for (i = 0; i < KC_ND_OPTIONS && offset < p->length; i++) {
		if (bpf_skb_load_bytes(skb, offset, &option, sizeof(option)))
			return KC_DROP_TRUNCATED;
		if (!option.length)
			return KC_DROP_MALFORMED;
		if ((option.type == KC_ND_SOURCE_LLA ||
		     option.type == KC_ND_TARGET_LLA) &&
		    !kc_same_mac(option.mac, ep->mac))
			return KC_DROP_SPOOF_ND;
		offset += option.length * 8;
	}
	return offset >= p->length ? 0 : KC_DROP_MALFORMED;
}

/* To a pod: what asks for its addresses or answers its questions. */
__noinline int kc_nd_to_pod(struct __sk_buff *skb, struct kc_packet *p,
				   struct kc_endpoint *ep)
{
	__u8 target[16] __attribute__((aligned(8)));

	if (!p || !ep)
		return KC_DROP_TABLES;
	if (p->frag)
		return KC_DROP_ND;
	switch (p->icmp_type) {
	case KC_MLD_QUERY:
	case KC_MLD_REPORT:
	case KC_MLD_DONE:
	case KC_MLD2_REPORT:
		return p->hop_limit == 1 ? 0 : KC_DROP_ND;
	case KC_ND_NS:
		if (bpf_skb_load_bytes(skb, p->l4 + 8, target, 16))
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

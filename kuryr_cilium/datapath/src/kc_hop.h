/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The local hop: from pod to pod of one node without the switch, where
 * Neutron has nothing of its own to enforce.
 */
#ifndef KC_HOP_H
#define KC_HOP_H

#include "kc_end.h"

#define KC_TYPE_HOST 0		/* PACKET_HOST */

/*
 * Hand a frame to the pod's end of a link. Its type was made by the MAC
 * address of the host's end; kernel 5.10 drops what is for another host.
 */
static __always_inline int kc_deliver(struct __sk_buff *skb,
				      const struct kc_packet *p, __u32 ifindex)
{
	if (!(p->dmac[0] & 1))
		bpf_skb_change_type(skb, KC_TYPE_HOST);
	return bpf_redirect_peer(ifindex, 0);
}

/* What comes from a backend, comes from the service. */
static __always_inline int kc_back(struct __sk_buff *skb, struct kc_call *c)
{
	if (!c->source.set)
		return 0;
	return c->packet.flags & KC_PACKET_ERROR ? kc_rewrite_error(skb, true) :
						   kc_rewrite(skb, true);
}

static __always_inline bool kc_is_gateway(const struct kc_endpoint *ep,
					  const __u8 *mac)
{
	return !kc_zero_mac(mac) && (kc_same_mac(mac, ep->gateway_macs[0]) ||
				     kc_same_mac(mac, ep->gateway_macs[1]));
}

/* The receiver of a packet if it may be handed over; NULL: it may not. */
static __always_inline struct kc_endpoint *
kc_neighbour(struct kc_call *c, const struct kc_endpoint *ep)
{
	const struct kc_packet *p = &c->packet;
	struct kc_addr_key key = { .space = c->near.space };
	struct kc_endpoint *to;
	struct kc_local *local;
	__u32 number;
	int index;

	if (!(ep->flags & KC_ENDPOINT_FASTPATH) || p->dmac[0] & 1)
		return NULL;
	kc_copy16(key.addr, p->daddr);
	local = bpf_map_lookup_elem(&kc_local_v1, &key);
	if (!local)
		return NULL;
	number = local->endpoint;
	/* A backend of a service may be there whatever the pod took for it. */
	if (number == c->near.number ||
	    !(c->backend.set || kc_same_mac(p->dmac, local->mac) ||
	      kc_is_gateway(ep, p->dmac)))
		return NULL;
	kc_end_set(&c->far, number, c->near.epoch, KC_INGRESS);
	to = bpf_map_lookup_elem(&kc_endpoint_v1, &number);
	if (!to)
		return NULL;
	kc_end_rules(&c->far, to, p->flags & KC_PACKET_V6);
	index = kc_owned(to, p->daddr);
	if (index < 0 || !(to->flags & KC_ENDPOINT_FASTPATH) ||
	    to->network != ep->network)
		return NULL;
	c->far.local = index;
	return to;
}

/* Judge the far end, write both, hand over; near is judged already. */
static __always_inline int kc_hop(struct __sk_buff *skb, struct kc_call *c,
			     struct kc_endpoint *to)
{
	__u32 ifindex = to->kc_ifindex;
	__u8 mac[6];
	int reason;

	__builtin_memcpy(mac, to->mac, 6);
	reason = kc_ready(&c->far) ? kc_judge_any(skb, &c->packet, true) :
		 KC_DROP_NOT_READY;
	if (reason)
		return kc_drop(skb, true, reason);
	reason = kc_commit(skb, false);
	if (reason)
		return kc_drop(skb, false, reason);
	reason = kc_commit(skb, true);
	if (reason)
		return kc_drop(skb, true, reason);
	reason = kc_back(skb, c);
	if (reason)
		return kc_drop(skb, true, reason);
	if (!kc_same_mac(c->packet.dmac, mac) &&
	    bpf_skb_store_bytes(skb, 0, mac, 6, 0))
		return kc_drop(skb, true, KC_DROP_INTERNAL);
	return kc_deliver(skb, &c->packet, ifindex);
}

#endif

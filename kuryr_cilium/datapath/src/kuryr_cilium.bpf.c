/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What a pod may send and receive, judged on the host's side of its links.
 *
 *   from_pod   ingress of kc, the host's end of the pod's link
 *   to_pod     ingress of kq, our end of the link into the switch
 *   from_host  egress of kc: what the host's own stack routes to the pod
 *
 * Whatever is not understood is dropped, counted and told of.
 */
#include "kc_maps.h"
#include "kc_packet.h"
#include "kc_event.h"
#include "kc_policy.h"
#include "kc_ct.h"
#include "kc_spoof.h"
#include "kc_icmp.h"

#define KC_PACKET_HOST 0

/* What one packet is worked on with; too large for the stack. */
struct kc_call {
	struct kc_packet packet;
	struct kc_end end;
	struct kc_result result;
};

KC_MAP(kc_scratch, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct kc_call, 1, 0);

static __always_inline struct kc_call *kc_call(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&kc_scratch, &zero);
}

static __always_inline struct kc_endpoint *kc_find(struct __sk_buff *skb,
						   struct kc_call *c)
{
	__u32 ifindex = skb->ifindex, *number;

	__builtin_memset(&c->end, 0, sizeof(c->end));
	__builtin_memset(&c->result, 0, sizeof(c->result));
	c->result.bit = KC_NO_BIT;
	c->end.epoch = kc_meta(KC_META_EPOCH);
	number = bpf_map_lookup_elem(&kc_if_v1, &ifindex);
	if (!number)
		return NULL;
	c->end.number = *number;
	return bpf_map_lookup_elem(&kc_endpoint_v1, number);
}

static __always_inline void kc_set_end(struct kc_end *e,
				       const struct kc_endpoint *ep,
				       __u8 direction, bool v6)
{
	__u32 in = ep->in_ruleset, out = ep->out_ruleset;

	e->space = v6 ? ep->space6 : ep->space4;
	e->direction = direction;
	e->ruleset = direction == KC_EGRESS ? out : in;
	e->other_ruleset = direction == KC_EGRESS ? in : out;
}

static __always_inline int kc_judge_any(struct __sk_buff *skb,
					struct kc_call *c,
					struct kc_endpoint *ep)
{
	if (c->packet.flags & KC_PACKET_ERROR)
		return kc_judge_error(skb, &c->packet, &c->end, &c->result, ep);
	return kc_judge(&c->packet, &c->end, &c->result);
}

/* The number of an endpoint of this node that the packet may be handed to. */
static __always_inline struct kc_local *kc_neighbour(struct kc_call *c,
						     struct kc_endpoint *ep)
{
	struct kc_addr_key key = { .space = c->end.space };
	struct kc_local *local;

	if (!(ep->flags & KC_ENDPOINT_FASTPATH) ||
	    (c->packet.flags & KC_PACKET_GROUP))
		return NULL;
	__builtin_memcpy(key.addr, c->packet.daddr, 16);
	local = bpf_map_lookup_elem(&kc_local_v1, &key);
	if (!local)
		return NULL;
	if (kc_same_mac(c->packet.dmac, local->mac) ||
	    kc_same_mac(c->packet.dmac, ep->gateway_macs[0]) ||
	    kc_same_mac(c->packet.dmac, ep->gateway_macs[1]))
		return local;
	return NULL;
}

/* Both ends are judged before either entry is written. */
__noinline int kc_hop(struct __sk_buff *skb, struct kc_call *c,
			     __u32 number, __u32 network)
{
	struct kc_endpoint *to;
	__u32 ifindex;
	struct kc_end end = {};
	struct kc_result result = { .bit = KC_NO_BIT };
	int reason, index;

	if (!c)
		return TC_ACT_SHOT;
	to = bpf_map_lookup_elem(&kc_endpoint_v1, &number);
	if (!to || !(to->flags & KC_ENDPOINT_FASTPATH) ||
	    to->network != network || to->in_ruleset == KC_RULESET_NONE)
		return TC_ACT_UNSPEC;
	index = kc_owned(to, c->packet.daddr);
	if (index < 0)
		return TC_ACT_UNSPEC;
	end.number = number;
	end.epoch = c->end.epoch;
	end.local = index;
	kc_set_end(&end, to, KC_INGRESS, c->packet.flags & KC_PACKET_V6);
	ifindex = to->kc_ifindex;
	if (c->packet.flags & KC_PACKET_ERROR)
		reason = kc_judge_error(skb, &c->packet, &end, &result, to);
	else
		reason = kc_judge(&c->packet, &end, &result);
	if (reason)
		return kc_drop(&c->packet, &end, &result, reason);
	reason = kc_commit(&c->packet, &c->end, &c->result);
	if (reason)
		return kc_drop(&c->packet, &c->end, &c->result, reason);
	reason = kc_commit(&c->packet, &end, &result);
	if (reason)
		return kc_drop(&c->packet, &end, &result, reason);
	if (!kc_same_mac(c->packet.dmac, to->mac)) {
		__u8 mac[6];

		__builtin_memcpy(mac, to->mac, 6);
		bpf_skb_store_bytes(skb, 0, mac, 6, 0);
	}
	bpf_skb_change_type(skb, KC_PACKET_HOST);
	return bpf_redirect_peer(ifindex, 0);
}

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	struct kc_endpoint *ep;
	struct kc_local *local;
	struct kc_call *c = kc_call();
	int reason, index, action;

	if (!c)
		return TC_ACT_SHOT;
	ep = kc_find(skb, c);
	reason = kc_parse_ethernet(skb, &c->packet);
	c->end.direction = KC_EGRESS;
	if (!ep)
		return kc_drop(&c->packet, &c->end, &c->result,
			       KC_DROP_NO_ENDPOINT);
	if (ep->out_ruleset == KC_RULESET_NONE) {
		reason = KC_DROP_NOT_READY;
		goto drop;
	}
	if (reason)
		goto drop;
	if (!kc_same_mac(c->packet.smac, ep->mac)) {
		reason = KC_DROP_SPOOF_MAC;
		goto drop;
	}
	if (c->packet.ethertype == bpf_htons(ETH_P_ARP)) {
		reason = kc_arp_from_pod(skb, ep);
		if (reason)
			goto drop;
		return bpf_redirect(ep->kq_ifindex, 0);
	}
	reason = kc_parse_ip(skb, &c->packet, c->end.number);
	if (reason)
		goto drop;
	if (c->packet.flags & KC_PACKET_ND) {
		reason = kc_nd_from_pod(skb, &c->packet, ep);
		if (reason)
			goto drop;
		return bpf_redirect(ep->kq_ifindex, 0);
	}
	index = kc_owned(ep, c->packet.saddr);
	if (index < 0) {
		reason = KC_DROP_SPOOF_IP;
		goto drop;
	}
	c->end.local = index;
	kc_set_end(&c->end, ep, KC_EGRESS, c->packet.flags & KC_PACKET_V6);
	reason = kc_judge_any(skb, c, ep);
	if (reason)
		goto drop;
	if (c->result.ct_flags & KC_CT_HOST) {
		reason = kc_commit(&c->packet, &c->end, &c->result);
		if (reason)
			goto drop;
		/* Its frame may be addressed to the gateway. */
		bpf_skb_change_type(skb, KC_PACKET_HOST);
		return TC_ACT_OK;
	}
	local = kc_neighbour(c, ep);
	if (local) {
		action = kc_hop(skb, c, local->endpoint, ep->network);
		if (action != TC_ACT_UNSPEC)
			return action;
	}
	reason = kc_commit(&c->packet, &c->end, &c->result);
	if (reason)
		goto drop;
	return bpf_redirect(ep->kq_ifindex, 0);
drop:
	return kc_drop(&c->packet, &c->end, &c->result, reason);
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	struct kc_endpoint *ep;
	struct kc_call *c = kc_call();
	int reason, index;

	if (!c)
		return TC_ACT_SHOT;
	ep = kc_find(skb, c);
	reason = kc_parse_ethernet(skb, &c->packet);
	if (!ep)
		return kc_drop(&c->packet, &c->end, &c->result,
			       KC_DROP_NO_ENDPOINT);
	if (ep->in_ruleset == KC_RULESET_NONE) {
		reason = KC_DROP_NOT_READY;
		goto drop;
	}
	if (reason)
		goto drop;
	if (!(c->packet.dmac[0] & 1) && !kc_same_mac(c->packet.dmac, ep->mac)) {
		reason = KC_DROP_NOT_OURS;	/* flooded */
		goto drop;
	}
	if (c->packet.ethertype == bpf_htons(ETH_P_ARP))
		goto deliver;
	reason = kc_parse_ip(skb, &c->packet, c->end.number);
	if (reason)
		goto drop;
	if (c->packet.flags & KC_PACKET_ND) {
		reason = kc_nd_to_pod(skb, &c->packet, ep);
		if (reason)
			goto drop;
		goto deliver;
	}
	index = kc_owned(ep, c->packet.daddr);
	if (index < 0 && !(c->packet.flags & KC_PACKET_GROUP)) {
		reason = KC_DROP_NOT_OURS;
		goto drop;
	}
	if (kc_owned(ep, c->packet.saddr) >= 0) {
		reason = KC_DROP_SPOOF_IP;
		goto drop;
	}
	c->end.local = index < 0 ? KC_ADDRS : index;
	kc_set_end(&c->end, ep, KC_INGRESS, c->packet.flags & KC_PACKET_V6);
	reason = kc_judge_any(skb, c, ep);
	if (!reason)
		reason = kc_commit(&c->packet, &c->end, &c->result);
	if (reason)
		goto drop;
deliver:
	bpf_skb_change_type(skb, KC_PACKET_HOST);
	return bpf_redirect_peer(ep->kc_ifindex, 0);
drop:
	return kc_drop(&c->packet, &c->end, &c->result, reason);
}

/* Whether an address is this node's. */
static __always_inline bool kc_is_host(__u32 space, const __u8 *address)
{
	struct kc_addr_key key = { .space = space };
	struct kc_peer *peer;

	__builtin_memcpy(key.addr, address, 16);
	peer = bpf_map_lookup_elem(&kc_addr_v1, &key);
	return peer && peer->entity == KC_ENTITY_HOST;
}

SEC("tc")
int from_host(struct __sk_buff *skb)
{
	struct kc_endpoint *ep;
	struct kc_call *c = kc_call();
	int reason, index;

	if (!c)
		return TC_ACT_SHOT;
	ep = kc_find(skb, c);
	reason = kc_parse_ethernet(skb, &c->packet);
	if (!ep)
		return kc_drop(&c->packet, &c->end, &c->result,
			       KC_DROP_NO_ENDPOINT);
	if (ep->in_ruleset == KC_RULESET_NONE) {
		reason = KC_DROP_NOT_READY;
		goto drop;
	}
	if (reason)
		goto drop;
	if (c->packet.ethertype == bpf_htons(ETH_P_ARP)) {
		reason = KC_DROP_HOST_FRAME;
		goto drop;
	}
	reason = kc_parse_ip(skb, &c->packet, c->end.number);
	if (reason)
		goto drop;
	if (c->packet.flags & KC_PACKET_ND) {
		/* Neighbours are permanent: the host has nothing to ask. */
		reason = KC_DROP_HOST_FRAME;
		goto drop;
	}
	index = kc_owned(ep, c->packet.daddr);
	if (index < 0) {
		reason = KC_DROP_NOT_OURS;
		goto drop;
	}
	c->end.local = index;
	kc_set_end(&c->end, ep, KC_INGRESS, c->packet.flags & KC_PACKET_V6);
	/* What the node sends came in by no interface. */
	c->end.ct_flags = KC_CT_HOST;
	if (!skb->ingress_ifindex)
		c->end.ct_flags |= KC_CT_OWN;
	else if (kc_is_host(c->end.space, c->packet.saddr))
		c->end.ct_flags |= KC_CT_AS_WORLD;
	reason = kc_judge_any(skb, c, ep);
	if (!reason)
		reason = kc_commit(&c->packet, &c->end, &c->result);
	if (reason)
		goto drop;
	return TC_ACT_OK;
drop:
	return kc_drop(&c->packet, &c->end, &c->result, reason);
}

char _license[] SEC("license") = "GPL";

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What a pod may send and receive, judged on the host's side of its links.
 *
 *   from_pod   ingress of kc, the host's end of the pod's link
 *   to_pod     ingress of kq, our end of the link into the switch
 *   from_host  egress of kc: what the host's own stack routes to the pod
 *
 * Whatever is not understood there is dropped, counted and told of. What comes
 * from outside to services is led to them on the node's uplinks, and whatever
 * is not of a service passes there as it is:
 *
 *   from_uplink  ingress
 *   to_uplink    egress
 *
 * What sockets of the node and its pods ask of services is led at its cgroups.
 */
#include "kc_hop.h"
#include "kc_reject.h"
#include "kc_out.h"
#include "kc_sock.h"

/* Passing is leaving it to who comes next: an operator's own program. */
#define KC_PASS TC_ACT_UNSPEC

const volatile struct kc_types kc_types = {};

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	struct kc_call *c = kc_this_call();
	struct kc_endpoint *ep = NULL, *to;
	struct kc_packet *p;
	__u32 kq;
	int reason, index;

	if (!c)
		return TC_ACT_SHOT;
	p = &c->packet;
	reason = kc_begin(skb, c, KC_EGRESS, false, &ep);
	if (reason || !ep)
		goto drop;
	kq = ep->kq_ifindex;
	if (!kc_same_mac(p->smac, ep->mac)) {
		reason = KC_DROP_SPOOF_MAC;
		goto drop;
	}
	if (p->ethertype == bpf_htons(ETH_P_ARP) || p->flags & KC_PACKET_ND) {
		reason = p->flags & KC_PACKET_ND ?
			 kc_nd_from_pod(skb, c->near.number) :
			 kc_arp_from_pod(skb, c->near.number);
		if (reason)
			goto drop;
		return bpf_redirect(kq, 0);
	}
	index = kc_owned(ep, p->saddr);
	if (index < 0) {
		reason = KC_DROP_SPOOF_IP;
		goto drop;
	}
	c->near.local = index;
	reason = kc_judge_any(skb, p, false);
	if (reason == KC_DROP_NO_BACKEND)
		return kc_reject(skb, ep->kc_ifindex);
	if (reason)
		goto drop;
	if (c->backend.set & KC_NAT_HAIRPIN)
		return kc_deliver(skb, p, ep->kc_ifindex);
	if (!(c->near.flags & KC_CT_HOST)) {
		to = kc_neighbour(c, ep);
		if (to)
			return kc_hop(skb, c, to);
	}
	reason = kc_commit(skb, false);
	if (reason)
		goto drop;
	if (!(c->near.flags & KC_CT_HOST))
		return bpf_redirect(kq, 0);
	/* To the node itself; the frame may be addressed to a gateway. */
	bpf_skb_change_type(skb, KC_TYPE_HOST);
	return KC_PASS;
drop:
	return kc_drop(skb, false, reason);
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	struct kc_call *c = kc_this_call();
	struct kc_endpoint *ep = NULL;
	struct kc_packet *p;
	__u32 kc;
	int reason, index;

	if (!c)
		return TC_ACT_SHOT;
	p = &c->packet;
	reason = kc_begin(skb, c, KC_INGRESS, true, &ep);
	if (reason || !ep)
		goto drop;
	kc = ep->kc_ifindex;
	if (!(p->dmac[0] & 1) && !kc_same_mac(p->dmac, ep->mac)) {
		reason = KC_DROP_NOT_OURS;	/* flooded */
		goto drop;
	}
	if (p->ethertype == bpf_htons(ETH_P_ARP))
		return kc_deliver(skb, p, kc);
	if (p->flags & KC_PACKET_ND) {
		reason = kc_nd_to_pod(skb, c->near.number);
		if (reason)
			goto drop;
		return kc_deliver(skb, p, kc);
	}
	index = kc_owned(ep, p->daddr);
	if (index < 0 && p->flags & KC_PACKET_GROUP)
		index = KC_ADDRS;
	if (index < 0) {
		reason = KC_DROP_NOT_OURS;
		goto drop;
	}
	if (kc_owned(ep, p->saddr) >= 0) {
		reason = KC_DROP_SPOOF_IP;
		goto drop;
	}
	c->near.local = index;
	reason = kc_judge_any(skb, p, false);
	if (!reason)
		reason = kc_commit(skb, false);
	if (!reason)
		reason = kc_back(skb, c);
	if (reason)
		goto drop;
	return kc_deliver(skb, p, kc);
drop:
	return kc_drop(skb, false, reason);
}

/* Whether an address is this node's. */
static __always_inline bool kc_is_host(__u32 space, const __u8 *address)
{
	struct kc_addr_key key = { .space = space };
	struct kc_peer *peer;

	kc_copy16(key.addr, address);
	peer = bpf_map_lookup_elem(&kc_addr_v1, &key);
	return peer && peer->entity == KC_ENTITY_HOST;
}

SEC("tc")
int from_host(struct __sk_buff *skb)
{
	struct kc_call *c = kc_this_call();
	struct kc_endpoint *ep = NULL;
	struct kc_packet *p;
	int reason, index;

	if (!c)
		return TC_ACT_SHOT;
	p = &c->packet;
	reason = kc_begin(skb, c, KC_INGRESS, false, &ep);
	if (reason || !ep)
		goto drop;
	/* Neighbours are permanent: the host has nothing to ask. */
	if (p->ethertype == bpf_htons(ETH_P_ARP) || p->flags & KC_PACKET_ND) {
		reason = KC_DROP_HOST_FRAME;
		goto drop;
	}
	index = kc_owned(ep, p->daddr);
	if (index < 0) {
		reason = KC_DROP_NOT_OURS;
		goto drop;
	}
	c->near.local = index;
	/* What the node sends itself came in by no interface. */
	c->near.ct_flags = KC_CT_HOST;
	if (!skb->ingress_ifindex)
		c->near.ct_flags |= KC_CT_OWN;
	else if (kc_is_host(c->near.space, p->saddr))
		c->near.ct_flags |= KC_CT_AS_WORLD;
	reason = kc_judge_any(skb, p, false);
	if (!reason)
		reason = kc_commit(skb, false);
	if (!reason)
		reason = kc_back(skb, c);
	if (reason)
		goto drop;
	return KC_PASS;
drop:
	return kc_drop(skb, false, reason);
}

SEC("tc")
int from_uplink(struct __sk_buff *skb)
{
	struct kc_call *c = kc_this_call();
	int reason, dropped;

	/* What the wire carries for other machines is not ours. */
	if (skb->pkt_type != KC_TYPE_HOST)
		return KC_PASS;
	if (!c || !kc_out_begin(skb, c, KC_INGRESS))
		return KC_PASS;
	if (c->packet.flags & KC_PACKET_ERROR) {
		reason = kc_out_error(skb, false);
	} else {
		reason = kc_out_enter(skb);
		if (!reason && c->backend.set)
			reason = kc_out_replace(skb, c, false);
	}
	if (!reason)
		return KC_PASS;
	dropped = kc_drop(skb, false, reason);
	if (reason != KC_DROP_NO_BACKEND || kc_refuse(skb))
		return dropped;
	return bpf_redirect(skb->ifindex, 0);
}

SEC("tc")
int to_uplink(struct __sk_buff *skb)
{
	struct kc_call *c = kc_this_call();
	int reason;

	if (!c || !kc_out_begin(skb, c, KC_EGRESS))
		return KC_PASS;
	if (c->packet.flags & KC_PACKET_ERROR) {
		reason = kc_out_error(skb, true);
	} else {
		reason = kc_out_exit(skb);
		if (!reason && c->source.set)
			reason = kc_out_replace(skb, c, true);
	}
	return reason ? kc_drop(skb, false, reason) : KC_PASS;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return kc_sock_answer(kc_sock_lead(ctx, false, false));
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return kc_sock_answer(kc_sock_lead(ctx, true, false));
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return kc_sock_answer(kc_sock_lead(ctx, false, true));
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return kc_sock_answer(kc_sock_lead(ctx, true, true));
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return kc_sock_back(ctx, false);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return kc_sock_back(ctx, true);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return kc_sock_back(ctx, false);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return kc_sock_back(ctx, true);
}

SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *sk)
{
	return kc_sock_forget(sk);
}

/* What benchmarks compare with. */
SEC("tc")
int noop(struct __sk_buff *skb)
{
	return skb->len ? KC_PASS : TC_ACT_SHOT;
}

char _license[] SEC("license") = "GPL";

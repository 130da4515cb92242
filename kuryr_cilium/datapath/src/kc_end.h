/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The ends of a packet: whose link it is on, what judges it there. */
#ifndef KC_END_H
#define KC_END_H

#include "kc_frag.h"
#include "kc_icmp.h"

static __always_inline void kc_end_set(struct kc_end *e, __u32 number,
				       __u32 epoch, __u8 direction)
{
	__builtin_memset(e, 0, sizeof(*e));
	e->number = number;
	e->epoch = epoch;
	e->direction = direction;
	e->bit = KC_NO_BIT;
}

/* In one go: a replaced row's memory is used again. */
static __always_inline void kc_end_rules(struct kc_end *e,
					 const struct kc_endpoint *ep, bool v6)
{
	__u32 in = ep->in_ruleset, out = ep->out_ruleset;

	e->space = v6 ? ep->space6 : ep->space4;
	e->ruleset = e->direction == KC_EGRESS ? out : in;
	e->other_ruleset = e->direction == KC_EGRESS ? in : out;
}

/* An endpoint that drops everything has no rulesets. */
static __always_inline bool kc_ready(const struct kc_end *e)
{
	return e->ruleset != KC_RULESET_NONE &&
	       e->other_ruleset != KC_RULESET_NONE;
}

/*
 * Read a frame and find the endpoint whose link it is on. Returns 0 or the
 * reason to drop; *ep is not NULL then.
 *
 * The epoch comes first: a verdict by tables that change meanwhile is then
 * judged again, not taken for a newer one.
 */
static __always_inline int kc_begin(struct __sk_buff *skb, struct kc_call *c,
				    __u8 direction, bool switch_side,
				    struct kc_endpoint **ep)
{
	__u32 ifindex = skb->ifindex, epoch = kc_meta(KC_META_EPOCH), *number;
	int reason;

	kc_end_set(&c->near, 0, epoch, direction);
	c->service.set = 0;
	c->service.service = 0;
	c->backend.set = 0;
	c->source.set = 0;
	reason = kc_parse(skb);
	number = bpf_map_lookup_elem(&kc_if_v1, &ifindex);
	if (!number)
		return KC_DROP_NO_ENDPOINT;
	c->near.number = *number;
	*ep = bpf_map_lookup_elem(&kc_endpoint_v1, number);
	if (!*ep)
		return KC_DROP_NO_ENDPOINT;
	kc_end_rules(&c->near, *ep, c->packet.flags & KC_PACKET_V6);
	if (!kc_ready(&c->near))
		return KC_DROP_NOT_READY;
	if (ifindex != (switch_side ? (*ep)->kq_ifindex : (*ep)->kc_ifindex))
		return KC_DROP_NO_ENDPOINT;
	if (!reason && c->packet.frag)
		reason = kc_fragment(skb, c->near.number);
	return reason;
}

static __always_inline int kc_judge_any(struct __sk_buff *skb,
					const struct kc_packet *p, bool far)
{
	return p->flags & KC_PACKET_ERROR ? kc_judge_error(skb, far) :
	       kc_judge(skb, far);
}

#endif

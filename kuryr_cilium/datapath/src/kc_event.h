/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Counting drops and telling of verdicts. */
#ifndef KC_EVENT_H
#define KC_EVENT_H

#include <linux/pkt_cls.h>
#include "kc_find.h"

#define KC_EVENT_RATE 100	/* if the agent has not said otherwise */

/* One endpoint's flood hides no other's events, its drops no verdicts. */
static __always_inline bool kc_event_allowed(__u32 endpoint, bool drop,
					     __u64 now)
{
	__u32 index = (endpoint * 2 + drop) % KC_RATES;
	struct kc_rate *rate = bpf_map_lookup_elem(&kc_rate_v1, &index);
	__u64 limit = kc_meta(KC_META_EVENT_RATE);

	if (!rate)
		return false;
	if (rate->second != now / KC_SECOND) {
		rate->second = now / KC_SECOND;
		rate->count = 0;
	}
	return rate->count++ < (limit ? limit : KC_EVENT_RATE);
}

/*
 * The number of the service that the pod of an end (of an uplink: the client)
 * asks, or is answered by; 0 for none. A packet that needed no service to be
 * looked for has only its address.
 */
static __always_inline __u32 kc_event_service(struct kc_call *c, bool far)
{
	const struct kc_packet *p = &c->packet;
	struct kc_end *e = kc_this_end(c, far);
	const struct kc_nat *asked;
	const struct kc_svc *svc;

	if ((e->direction == KC_EGRESS || !e->number) && c->service.service)
		return c->service.service;
	if (e->asked_port) {
		svc = kc_svc_of(&c->svc, e->asked, e->asked_port, IPPROTO_TCP);
		return svc ? svc->number : 0;
	}
	asked = e->direction == KC_EGRESS ? &c->service : &c->source;
	if (!asked->set)
		return 0;
	svc = kc_svc_of(&c->svc, asked->addr, asked->port,
			p->flags & KC_PACKET_ERROR ? c->quoted.proto :
						     p->proto);
	return svc ? svc->number : 0;
}

/* Tell of a drop, or (KC_ALLOWED) of the first packet of a connection. */
__noinline int kc_tell(struct __sk_buff *skb, bool far, __u32 reason)
{
	struct kc_call *c = kc_this_call();
	__u64 now = bpf_ktime_get_coarse_ns();
	const struct kc_packet *p;
	struct kc_event *event;
	struct kc_end *e;

	if (!c || !skb)
		return 0;
	p = &c->packet;
	e = kc_this_end(c, far);
	if (!kc_event_allowed(e->number, reason != KC_ALLOWED, now))
		return 0;
	event = bpf_ringbuf_reserve(&kc_events_v1, sizeof(*event), 0);
	if (!event)
		return 0;
	__builtin_memset(event, 0, sizeof(*event));
	event->time = bpf_ktime_get_ns();
	event->endpoint = e->number;
	event->ruleset = e->judged_by;
	event->bit = e->bit;
	event->length = p->length;
	kc_copy16(event->saddr, p->saddr);
	kc_copy16(event->daddr, p->daddr);
	event->sport = p->sport;
	event->dport = p->dport;
	event->ethertype = p->ethertype;
	event->proto = p->proto;
	event->direction = e->direction;
	event->reason = reason;
	event->service = kc_event_service(c, far);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

static __always_inline int kc_drop(struct __sk_buff *skb, bool far,
				   __u32 reason)
{
	__u32 index = reason;
	__u64 *count = bpf_map_lookup_elem(&kc_drops_v1, &index);

	if (count)
		*count += 1;
	kc_tell(skb, far, reason);
	return TC_ACT_SHOT;
}

#endif

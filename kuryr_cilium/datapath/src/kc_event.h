/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Counting drops and telling of verdicts. */
#ifndef KC_EVENT_H
#define KC_EVENT_H

#include <linux/pkt_cls.h>
#include "kc_maps.h"
#include "kc_packet.h"

#define KC_NO_BIT 0xffffffff
#define KC_SECOND 1000000000ull

/* One end of a packet: the endpoint that judges it, and how it does. */
struct kc_end {
	__u32 number;
	__u32 epoch;		/* read before anything else */
	__u32 space;
	__u32 ruleset;		/* of this direction */
	__u32 other_ruleset;	/* of the other one */
	__u8 direction;		/* enum kc_direction */
	__u8 local;		/* index of its address */
	__u16 ct_flags;		/* of a connection that this packet opens */
};

/* What the decision was made by. */
struct kc_result {
	__u32 ruleset;
	__u32 bit;
	__u16 ct_flags;		/* of the connection */
	__u8 action;		/* enum kc_action */
	__u8 stale;		/* an older entry is in the way */
};

static __always_inline __u64 kc_meta(__u32 index)
{
	__u64 *value = bpf_map_lookup_elem(&kc_meta_v1, &index);

	return value ? *value : 0;
}

static __always_inline bool kc_event_allowed(__u64 now)
{
	__u32 zero = 0;
	struct kc_rate *rate = bpf_map_lookup_elem(&kc_rate_v1, &zero);

	if (!rate)
		return false;
	if (rate->second != now / KC_SECOND) {
		rate->second = now / KC_SECOND;
		rate->count = 0;
	}
	return rate->count++ < kc_meta(KC_META_EVENT_RATE);
}

__noinline int kc_tell(struct kc_packet *p, struct kc_end *e,
			      struct kc_result *r, int reason)
{
	__u64 now = bpf_ktime_get_ns();
	struct kc_event *event;

	if (!p || !e || !r || !kc_event_allowed(now))
		return 0;
	event = bpf_ringbuf_reserve(&kc_events_v1, sizeof(*event), 0);
	if (!event)
		return 0;
	__builtin_memset(event, 0, sizeof(*event));
	event->time = now;
	event->endpoint = e->number;
	event->ruleset = r->ruleset;
	event->bit = r->bit;
	event->length = p->length;
	__builtin_memcpy(event->saddr, p->saddr, 16);
	__builtin_memcpy(event->daddr, p->daddr, 16);
	event->sport = p->sport;
	event->dport = p->dport;
	event->ethertype = p->ethertype;
	event->proto = p->proto;
	event->direction = e->direction;
	event->reason = reason;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

static __always_inline int kc_drop(struct kc_packet *p, struct kc_end *e,
				   struct kc_result *r, int reason)
{
	__u32 index = reason & (KC_REASONS - 1);
	__u64 *count = bpf_map_lookup_elem(&kc_drops_v1, &index);

	if (count)
		*count += 1;
	kc_tell(p, e, r, reason);
	return TC_ACT_SHOT;
}

#endif

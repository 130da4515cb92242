/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Connections: one entry for both directions, as the endpoint sees it.
 *
 * kc_ct_new (LRU) holds what was not answered yet, kc_ct the rest. An entry
 * that was judged under an older policy epoch is judged again in its opening
 * direction; if that is denied it stays as a tombstone and drops both ways,
 * else the peer's next datagram would open the flow the other way.
 *
 * kc_judge() decides and writes nothing that opens a connection, so that both
 * ends of a local hop can be judged before either entry is written by
 * kc_commit().
 */
#ifndef KC_CT_H
#define KC_CT_H

#include "kc_event.h"
#include "kc_maps.h"
#include "kc_packet.h"
#include "kc_policy.h"

#define KC_CT_TOUCH (KC_SECOND / 10)
#define KC_CT_TCP (86400 * KC_SECOND)
#define KC_CT_SYN (60 * KC_SECOND)
#define KC_CT_CLOSE (10 * KC_SECOND)
#define KC_CT_OTHER (180 * KC_SECOND)
#define KC_CT_OTHER_NEW (30 * KC_SECOND)
#define KC_CT_TOMB (120 * KC_SECOND)

enum kc_action {
	KC_DO_NOTHING = 0,
	KC_DO_CREATE = 1,
	KC_DO_PROMOTE = 2,	/* it was answered: from kc_ct_new to kc_ct */
};

static __always_inline bool kc_is_icmp(__u8 proto)
{
	return proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6;
}

static __always_inline bool kc_has_port(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP ||
	       proto == IPPROTO_SCTP || proto == IPPROTO_UDPLITE ||
	       kc_is_icmp(proto);
}

static __always_inline void kc_ct_key(struct kc_ct_key *k,
				      const struct kc_packet *p,
				      const struct kc_end *e)
{
	k->endpoint = e->number;
	k->proto = p->proto;
	k->local = e->local;
	k->zero = 0;
	if (e->direction == KC_EGRESS) {
		k->lport = p->sport;
		k->rport = p->dport;
		__builtin_memcpy(k->raddr, p->daddr, 16);
	} else {
		k->lport = p->dport;
		k->rport = p->sport;
		__builtin_memcpy(k->raddr, p->saddr, 16);
	}
}

static __always_inline bool kc_ct_expired(const struct kc_ct *c, __u8 proto,
					  __u64 now)
{
	__u64 limit;

	if (c->flags & KC_CT_TOMBSTONE)
		limit = KC_CT_TOMB;
	else if (proto == IPPROTO_TCP || proto == IPPROTO_SCTP)
		limit = c->flags & KC_CT_CLOSING ? KC_CT_CLOSE :
			c->flags & KC_CT_REPLIED ? KC_CT_TCP : KC_CT_SYN;
	else
		limit = c->flags & KC_CT_REPLIED ? KC_CT_OTHER : KC_CT_OTHER_NEW;
	/* The coarse clock may be behind what another CPU wrote. */
	return now > c->last && now - c->last > limit;
}

static __always_inline void kc_ct_touch(struct kc_ct *c,
					const struct kc_packet *p, __u8 dir,
					__u64 now)
{
	if (now > c->last && now - c->last > KC_CT_TOUCH)
		c->last = now;
	if (dir == KC_EGRESS) {
		c->packets[KC_EGRESS]++;
		c->bytes[KC_EGRESS] += p->length;
	} else {
		c->packets[KC_INGRESS]++;
		c->bytes[KC_INGRESS] += p->length;
	}
	if (p->proto != IPPROTO_TCP || !(p->tcp_flags & (KC_TCP_FIN | KC_TCP_RST)))
		return;
	if (p->tcp_flags & KC_TCP_FIN)
		c->flags |= dir == KC_EGRESS ? KC_CT_FIN_OUT : KC_CT_FIN_IN;
	if ((p->tcp_flags & KC_TCP_RST) ||
	    (c->flags & (KC_CT_FIN_IN | KC_CT_FIN_OUT)) ==
		    (KC_CT_FIN_IN | KC_CT_FIN_OUT))
		c->flags |= KC_CT_CLOSING;
}

/*
 * Judge an open connection again, in its opening direction, if the policy has
 * changed since. Returns KC_ALLOWED or the reason to drop.
 */
static __always_inline int kc_ct_recheck(struct kc_ct *c,
					 const struct kc_ct_key *k,
					 const struct kc_end *e,
					 struct kc_result *r, bool v6)
{
	struct kc_query q = {};

	if (c->flags & KC_CT_OWN)
		return KC_ALLOWED;
	if (c->epoch == e->epoch)
		return c->flags & KC_CT_TOMBSTONE ? KC_DROP_POLICY_CHANGED :
		       KC_ALLOWED;
	__builtin_memcpy(q.raddr, k->raddr, 16);
	q.space = e->space;
	q.ruleset = c->direction == e->direction ? e->ruleset :
		    e->other_ruleset;
	q.proto = k->proto;
	q.port = c->direction == KC_EGRESS ? k->rport : k->lport;
	if (kc_is_icmp(k->proto) && k->lport == k->rport)
		q.port = bpf_htons((v6 ? KC_ICMP6_ECHO_REQUEST : ICMP_ECHO) << 8);
	q.has_port = kc_has_port(k->proto);
	q.as_world = !!(c->flags & KC_CT_AS_WORLD);
	if (kc_policy(&q) == KC_ALLOWED) {
		c->flags &= ~KC_CT_TOMBSTONE;
		c->rule_id = q.bit;
		c->epoch = e->epoch;
		return KC_ALLOWED;
	}
	r->bit = q.bit;
	r->ruleset = q.ruleset;
	c->flags |= KC_CT_TOMBSTONE;
	c->epoch = e->epoch;
	return KC_DROP_POLICY_CHANGED;
}

/* Returns KC_ALLOWED or the reason to drop. */
__noinline int kc_judge(struct kc_packet *p, struct kc_end *e,
			       struct kc_result *r)
{
	struct kc_query q = {};
	struct kc_ct_key k;
	struct kc_ct *c;
	__u64 now;
	bool fresh = false;
	int reason;

	if (!p || !e || !r)
		return KC_DROP_TABLES;
	now = bpf_ktime_get_coarse_ns();
	kc_ct_key(&k, p, e);
	r->action = KC_DO_NOTHING;
	r->stale = 0;
	r->bit = KC_NO_BIT;
	r->ruleset = e->ruleset;
	c = bpf_map_lookup_elem(&kc_ct_v1, &k);
	if (!c) {
		c = bpf_map_lookup_elem(&kc_ct_new_v1, &k);
		fresh = true;
	}
	if (c && kc_ct_expired(c, p->proto, now)) {
		r->stale = !fresh;
		c = NULL;
	}
	/*
	 * A hit does not excuse an opening packet, but where its verdict is
	 * the entry's: of the same direction, and no new connection.
	 */
	if (c && (!(p->flags & KC_PACKET_OPENING) ||
		  (c->direction == e->direction && !(c->flags & KC_CT_CLOSING) &&
		   (fresh || kc_is_icmp(p->proto))))) {
		reason = kc_ct_recheck(c, &k, e, r, p->flags & KC_PACKET_V6);
		kc_ct_touch(c, p, e->direction, now);
		r->ct_flags = c->flags;
		if (reason)
			return reason;
		if (c->direction != e->direction) {
			if (fresh)
				r->action = KC_DO_PROMOTE;
			else if (!(c->flags & KC_CT_REPLIED))
				c->flags |= KC_CT_REPLIED;
		}
		return KC_ALLOWED;
	}
	if (c)
		r->stale = !fresh;
	if (p->flags & KC_PACKET_REPLY)
		return KC_DROP_NO_CONNECTION;
	if ((p->proto == IPPROTO_TCP || p->proto == IPPROTO_SCTP) &&
	    !(p->flags & KC_PACKET_OPENING))
		return KC_DROP_NO_CONNECTION;
	r->ct_flags = e->ct_flags;
	r->action = KC_DO_CREATE;
	if (e->ct_flags & KC_CT_OWN)
		return KC_ALLOWED;
	__builtin_memcpy(q.raddr, k.raddr, 16);
	q.space = e->space;
	q.ruleset = e->ruleset;
	q.proto = p->proto;
	q.port = p->port;
	q.has_port = kc_has_port(p->proto);
	q.as_world = !!(e->ct_flags & KC_CT_AS_WORLD);
	reason = kc_policy(&q);
	r->bit = q.bit;
	if (e->direction == KC_EGRESS && q.entity == KC_ENTITY_HOST)
		r->ct_flags |= KC_CT_HOST;
	return reason;
}

static __always_inline void kc_ct_forget(const struct kc_ct_key *k)
{
	__u32 endpoint = k->endpoint;
	__u64 *count;

	if (bpf_map_delete_elem(&kc_ct_v1, k))
		return;
	count = bpf_map_lookup_elem(&kc_ct_count_v1, &endpoint);
	if (count)
		__sync_fetch_and_add(count, -1);
}

static __always_inline int kc_ct_promote(const struct kc_ct_key *k)
{
	__u32 endpoint = k->endpoint;
	__u64 *count, quota = kc_meta(KC_META_CT_QUOTA), one = 1;
	struct kc_ct *c, entry;
	long error;

	count = bpf_map_lookup_elem(&kc_ct_count_v1, &endpoint);
	if (count && quota && *count >= quota)
		return KC_DROP_CT_FULL;
	c = bpf_map_lookup_elem(&kc_ct_new_v1, k);
	if (!c)
		return KC_ALLOWED;	/* the other CPU was quicker */
	entry = *c;
	entry.flags |= KC_CT_REPLIED;
	error = bpf_map_update_elem(&kc_ct_v1, k, &entry, BPF_NOEXIST);
	if (error && error != -17 /* EEXIST */)
		return KC_DROP_CT_FULL;
	if (!error) {
		if (count)
			__sync_fetch_and_add(count, 1);
		else
			bpf_map_update_elem(&kc_ct_count_v1, &endpoint, &one,
					    BPF_ANY);
	}
	bpf_map_delete_elem(&kc_ct_new_v1, k);
	return KC_ALLOWED;
}

/* Write what kc_judge() has left to write; KC_ALLOWED or a reason to drop. */
__noinline int kc_commit(struct kc_packet *p, struct kc_end *e,
				struct kc_result *r)
{
	struct kc_ct entry = {};
	struct kc_ct_key k;

	if (!p || !e || !r)
		return KC_DROP_TABLES;
	if (r->action == KC_DO_NOTHING)
		return KC_ALLOWED;
	kc_ct_key(&k, p, e);
	if (r->action == KC_DO_PROMOTE)
		return kc_ct_promote(&k);
	if (r->stale)
		kc_ct_forget(&k);
	entry.last = bpf_ktime_get_coarse_ns();
	entry.epoch = e->epoch;
	entry.rule_id = r->bit;
	entry.flags = r->ct_flags;
	entry.direction = e->direction;
	kc_ct_touch(&entry, p, e->direction, entry.last);
	if (bpf_map_update_elem(&kc_ct_new_v1, &k, &entry, BPF_ANY))
		return KC_DROP_CT_FULL;
	if (!(r->ct_flags & KC_CT_OWN))
		kc_tell(p, e, r, KC_ALLOWED);
	return KC_ALLOWED;
}

#endif

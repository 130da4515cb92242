/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Connections: one entry for both directions, as the endpoint sees it.
 *
 * kc_ct_new (LRU) holds what was not answered yet and what was closed, kc_ct
 * the rest: a flood of requests can't push an open connection out, and a pod
 * that opens many short ones has no more of its quota taken than are open. What
 * goes to kc_ct leaves its row behind for when it is closed (KC_CT_OPEN: there
 * is nothing in it): to insert one a second time is dear.
 *
 * An entry that was judged under an older policy epoch is judged again in its
 * opening direction; if that is denied it stays as a tombstone and drops both
 * ways, else the peer's next datagram would open the flow the other way.
 *
 * kc_judge() writes nothing that opens a connection: both ends of a local hop
 * are judged before either entry is written by kc_commit().
 */
#ifndef KC_CT_H
#define KC_CT_H

#include "kc_policy.h"
#include "kc_svc.h"

/* Time stamps are not written more often than this. */
#define KC_TOUCH (KC_SECOND / 10)

#define KC_EEXIST 17

/* Who opened the connection by what; it decides what is judged. */
#define KC_CT_ORIGIN (KC_CT_OWN | KC_CT_AS_WORLD)

/* Two CPUs may count at once: a packet may be lost in the count. */
static __always_inline void kc_ct_touch(struct kc_ct *ct,
					const struct kc_packet *p, __u8 direction,
					__u64 now)
{
	if (kc_since(ct->last, now) > KC_TOUCH)
		ct->last = now;
	if (direction == KC_EGRESS) {
		ct->packets[KC_EGRESS]++;
		ct->bytes[KC_EGRESS] += p->length;
	} else {
		ct->packets[KC_INGRESS]++;
		ct->bytes[KC_INGRESS] += p->length;
	}
}

static __always_inline void kc_ct_close(struct kc_ct *ct,
					const struct kc_packet *p, __u8 direction)
{
	const __u16 both = KC_CT_FIN_IN | KC_CT_FIN_OUT;

	if (p->tcp_flags & KC_TCP_FIN)
		ct->flags |= direction == KC_EGRESS ? KC_CT_FIN_OUT :
			     KC_CT_FIN_IN;
	if (p->tcp_flags & KC_TCP_RST || (ct->flags & both) == both)
		ct->flags |= KC_CT_CLOSING;
}

static __always_inline int kc_ask(struct __sk_buff *skb, struct kc_query *q,
				  struct kc_end *e, __u32 ruleset,
				  const __u8 *raddr, __u8 proto, __be16 port,
				  __u16 ct_flags)
{
	int reason;

	/* Who lets everybody in need not know who comes. */
	if (ruleset == KC_RULESET_ALLOW && e->direction == KC_INGRESS) {
		e->judged_by = ruleset;
		e->bit = KC_NO_BIT;
		return KC_ALLOWED;
	}
	kc_copy16(q->raddr, raddr);
	q->space = e->space;
	q->ruleset = ruleset;
	q->proto = proto;
	q->port = port;
	q->has_port = kc_has_port(proto);
	q->as_world = !!(ct_flags & KC_CT_AS_WORLD);
	reason = kc_policy(skb);
	e->judged_by = ruleset;
	e->bit = q->bit;
	return reason;
}

/*
 * Judge an open connection again, in its opening direction, if the policy has
 * changed since. Returns KC_ALLOWED or the reason to drop.
 */
static __always_inline int kc_ct_recheck(struct __sk_buff *skb, struct kc_ct *ct,
				    const struct kc_ct_key *k,
				    struct kc_end *e, struct kc_query *q)
{
	__be16 port = ct->direction == KC_EGRESS ? k->rport : k->lport;
	int reason;

	if (ct->flags & KC_CT_OWN)
		return KC_ALLOWED;
	if (ct->epoch == e->epoch)
		return ct->flags & KC_CT_TOMBSTONE ? KC_DROP_POLICY_CHANGED :
		       KC_ALLOWED;
	if (kc_is_icmp(k->proto) && bpf_ntohs(k->rport) >= KC_ECHO_OURS)
		port = k->proto == IPPROTO_ICMP ?
		       bpf_htons(ICMP_ECHO << 8) :
		       bpf_htons(KC_ICMP6_ECHO_REQUEST << 8);
	reason = kc_ask(skb, q, e, ct->direction == e->direction ?
			e->ruleset : e->other_ruleset, k->raddr, k->proto,
			port, ct->flags);
	if (reason)
		ct->flags |= KC_CT_TOMBSTONE;
	else
		ct->flags &= ~KC_CT_TOMBSTONE;
	ct->rule_id = e->bit;
	ct->epoch = e->epoch;
	return reason ? KC_DROP_POLICY_CHANGED : KC_ALLOWED;
}

/*
 * Whether a packet shows that a half-open connection stands: an answer. What
 * has no states must go on after the answer, too: one question and one answer,
 * as of DNS, are over then and take no room.
 */
static __always_inline bool kc_ct_stands(struct kc_ct *ct,
					 const struct kc_packet *p,
					 __u8 direction)
{
	const __u8 both = KC_TCP_SYN | KC_TCP_ACK;
	bool answer = ct->direction != direction;

	if (p->proto == IPPROTO_TCP)
		return answer && (p->tcp_flags & both) == both;
	if (p->proto == IPPROTO_SCTP)
		return answer && !(p->tcp_flags & KC_TCP_RST);
	if (answer)
		ct->flags |= KC_CT_REPLIED;
	return !answer && ct->flags & KC_CT_REPLIED;
}

/* What the socket asked whose connection this packet opens; see kc_sock.h. */
static __always_inline void kc_ct_asked(struct __sk_buff *skb,
					const struct kc_packet *p,
					struct kc_end *e)
{
	struct bpf_sock *sk = skb->sk;
	const struct kc_led *led;

	if (p->proto != IPPROTO_TCP || !sk)
		return;
	sk = bpf_sk_fullsock(sk);
	led = sk ? bpf_sk_storage_get(&kc_led_v1, sk, NULL, 0) : NULL;
	if (led && led->backend.port == p->dport &&
	    kc_same16(led->backend.addr, p->daddr)) {
		e->asked_port = led->asked.port;
		kc_copy16(e->asked, led->asked.addr);
	}
}

/*
 * Judge a packet at one end. Returns KC_ALLOWED or the reason to drop; what
 * is left to write is in e->action.
 */
__noinline int kc_judge(struct __sk_buff *skb, bool far)
{
	struct kc_call *c = kc_this_call();
	__u64 now = bpf_ktime_get_coarse_ns();
	bool half, opening;
	const struct kc_packet *p;
	struct kc_ct_key k;
	struct kc_end *e;
	struct kc_ct *ct;
	int reason;

	if (!c)
		return KC_DROP_INTERNAL;
	p = &c->packet;
	e = kc_this_end(c, far);
	opening = p->flags & KC_PACKET_OPENING;
	kc_ct_key(&k, p, e->number, e->local, e->direction);
	e->judged_by = e->ruleset;
	e->action = KC_DO_NOTHING;
	ct = kc_ct_find(&k, &half);
	if (!far && e->direction == KC_EGRESS) {
		const __u16 hairpin = ct ? ct->flags & KC_CT_HAIRPIN : 0;
		/* What answers a direct connection goes to no service. */
		bool ask = !ct || ct->flags & (KC_CT_ALIAS | KC_CT_HAIRPIN) ||
			   (half && !(p->flags & KC_PACKET_ANSWER));

		if (ct && ct->flags & KC_CT_ALIAS && !hairpin) {
			ct = kc_svc_follow(c, ct, &k, now, &half);
			if (ct) {
				reason = kc_rewrite(skb, false);
				if (reason)
					return reason;
				ask = false;
			}
		}
		if (ask && kc_has_service(p)) {
			reason = kc_service(skb, hairpin);
			if (reason)
				return reason;
			if (c->backend.set & KC_NAT_HAIRPIN)
				return KC_ALLOWED;
			kc_ct_key(&k, p, e->number, e->local, e->direction);
			half = true;
			ct = c->fresh ? NULL : kc_ct_find(&k, &half);
		}
		/* The answers would be taken for the service's. */
		if (ct && ct->nat_port && !(ct->flags & KC_CT_ALIAS) &&
		    !c->backend.set && !kc_ct_expired(ct, p->proto, now) &&
		    !(opening && ct->flags & KC_CT_CLOSING))
			return KC_DROP_SERVICE_TUPLE;
	}
	/* An entry that is about to be swept is not written to. */
	e->action = ct && !half ? KC_DO_REOPEN : KC_DO_OPEN;
	if (ct && kc_ct_expired(ct, p->proto, now))
		ct = NULL;
	/* What services keep of a flow is nobody's who claims their address. */
	if (ct && ct->flags & (KC_CT_ALIAS | KC_CT_HAIRPIN)) {
		if (e->direction == KC_INGRESS && !(e->ct_flags & KC_CT_OWN))
			return KC_DROP_SERVICE_TUPLE;
		ct = NULL;
	}
	/*
	 * A hit does not excuse an opening packet, unless it repeats the one
	 * by which the connection was opened: else a pod that may not send to
	 * X could do so from a port that X has just used.
	 */
	if (ct && opening &&
	    (ct->direction != e->direction || ct->flags & KC_CT_CLOSING ||
	     (ct->flags ^ e->ct_flags) & KC_CT_ORIGIN))
		ct = NULL;
	/* Nor does the node's own connection what is forwarded under it. */
	if (ct && ct->flags & KC_CT_OWN && e->ct_flags & KC_CT_HOST &&
	    !(e->ct_flags & KC_CT_OWN)) {
		ct = NULL;
		e->action = KC_DO_NOTHING;
	}
	if (ct) {
		e->action = KC_DO_NOTHING;
		/* The node's own packet passes, yet it revives nothing. */
		reason = e->ct_flags & KC_CT_OWN ? KC_ALLOWED :
			 kc_ct_recheck(skb, ct, &k, e, &c->query);
		e->flags = ct->flags;
		kc_ct_touch(ct, p, e->direction, now);
		if (ct->asked_port) {
			e->asked_port = ct->asked_port;
			kc_copy16(e->asked, ct->nat);
		}
		if (ct->nat_port && e->direction == KC_INGRESS) {
			c->source.set = KC_NAT_SET;
			c->source.port = ct->nat_port;
			kc_copy16(c->source.addr, ct->nat);
		}
		if (reason)
			return reason;
		if (p->tcp_flags & (KC_TCP_FIN | KC_TCP_RST))
			kc_ct_close(ct, p, e->direction);
		if (ct->flags & KC_CT_CLOSING)
			e->action = half ? KC_DO_NOTHING : KC_DO_DEMOTE;
		else if (half && kc_ct_stands(ct, p, e->direction))
			e->action = KC_DO_PROMOTE;
		return KC_ALLOWED;
	}
	e->flags = e->ct_flags;
	if (e->ct_flags & KC_CT_OWN)
		return KC_ALLOWED;
	if (p->flags & KC_PACKET_ANSWER)
		return KC_DROP_NO_CONNECTION;
	if (!far && e->direction == KC_EGRESS && !c->backend.set)
		kc_ct_asked(skb, p, e);
	reason = kc_ask(skb, &c->query, e, e->ruleset, k.raddr, k.proto,
			p->port, e->ct_flags);
	if (e->direction == KC_EGRESS && c->query.entity == KC_ENTITY_HOST)
		e->flags |= KC_CT_HOST;
	return reason;
}

/* How many entries a connection takes. */
static __always_inline __s64 kc_ct_entries(const struct kc_ct *ct)
{
	return ct->nat_port && !(ct->flags & KC_CT_ALIAS) ? 2 : 1;
}

/* count: its row in kc_ct_count; NULL: it has none yet. */
static __always_inline void kc_ct_count(__s64 *count, __u32 endpoint,
					__s64 more)
{
	if (count)
		__sync_fetch_and_add(count, more);
	else if (more > 0)
		bpf_map_update_elem(&kc_ct_count_v1, &endpoint, &more, BPF_ANY);
}

static __always_inline void kc_ct_uncount(const struct kc_ct_key *k,
					  __s64 entries)
{
	__u32 endpoint = k->endpoint;

	kc_ct_count(bpf_map_lookup_elem(&kc_ct_count_v1, &endpoint), endpoint,
		    -entries);
}

/* The key of the alias of c->entry, in c->alias; whether it has one. */
static __always_inline bool kc_ct_has_alias(struct kc_call *c,
					    const struct kc_ct_key *k)
{
	if (!c->entry.nat_port)
		return false;
	kc_ct_alias_key(&c->alias, k, c->entry.nat_port, c->entry.nat);
	return true;
}

/* Take the alias of c->entry along to kc_ct, and back. */
static __always_inline void kc_ct_promote_alias(struct kc_call *c,
						const struct kc_ct_key *k)
{
	struct kc_ct *found;

	if (!kc_ct_has_alias(c, k))
		return;
	found = bpf_map_lookup_elem(&kc_ct_new_v1, &c->alias);
	if (!found)
		return;
	/* Copied: what is in a map is used again by others. */
	c->entry = *found;
	if (!bpf_map_update_elem(&kc_ct_v1, &c->alias, &c->entry, BPF_ANY))
		found->flags |= KC_CT_OPEN;
}

static __always_inline void kc_ct_demote_alias(struct kc_call *c,
					       const struct kc_ct_key *k)
{
	struct kc_ct *found, *old;

	if (!kc_ct_has_alias(c, k))
		return;
	old = bpf_map_lookup_elem(&kc_ct_new_v1, &c->alias);
	if (old) {
		old->flags &= ~KC_CT_OPEN;
	} else {
		found = bpf_map_lookup_elem(&kc_ct_v1, &c->alias);
		if (!found)
			return;
		c->entry = *found;
		if (bpf_map_update_elem(&kc_ct_new_v1, &c->alias, &c->entry,
					BPF_ANY))
			return;
	}
	bpf_map_delete_elem(&kc_ct_v1, &c->alias);
}

/* Returns KC_ALLOWED or the reason to drop. */
static __always_inline int kc_ct_promote(struct kc_call *c,
					 const struct kc_ct_key *k)
{
	struct kc_ct *ct, *entry = &c->entry;
	__u64 quota = kc_meta(KC_META_CT_QUOTA);
	__u32 endpoint = k->endpoint;
	__s64 *count;
	long error;

	ct = bpf_map_lookup_elem(&kc_ct_new_v1, k);
	if (!ct || ct->flags & KC_CT_OPEN)
		return KC_ALLOWED;	/* another CPU was quicker */
	*entry = *ct;
	entry->flags |= KC_CT_REPLIED;
	count = bpf_map_lookup_elem(&kc_ct_count_v1, &endpoint);
	/* Its own flood does not make a pod fail the kubelet's probes. */
	if (count && quota && *count >= (__s64)quota &&
	    !(entry->flags & KC_CT_OWN))
		return KC_DROP_CT_QUOTA;
	error = bpf_map_update_elem(&kc_ct_v1, k, entry, BPF_NOEXIST);
	if (error && error != -KC_EEXIST)
		return entry->flags & KC_CT_OWN ? KC_ALLOWED : KC_DROP_CT_FULL;
	ct->flags |= KC_CT_OPEN;
	if (!error) {
		kc_ct_count(count, endpoint, kc_ct_entries(entry));
		kc_ct_promote_alias(c, k);
	}
	return KC_ALLOWED;
}

static __always_inline void kc_ct_demote(struct kc_call *c,
					 const struct kc_ct_key *k)
{
	struct kc_ct *ct = bpf_map_lookup_elem(&kc_ct_v1, k), *old;
	struct kc_ct *entry = &c->entry;
	long error;

	if (!ct)
		return;
	*entry = *ct;
	old = bpf_map_lookup_elem(&kc_ct_new_v1, k);
	if (old && old->flags & KC_CT_OPEN) {
		old->last = entry->last;
		old->flags = entry->flags;
	} else {
		/* What another CPU has opened anew meanwhile stays. */
		error = bpf_map_update_elem(&kc_ct_new_v1, k, entry,
					    BPF_NOEXIST);
		if (error && error != -KC_EEXIST)
			return;
	}
	/* If it is gone, another CPU or the sweep was quicker. */
	if (bpf_map_delete_elem(&kc_ct_v1, k))
		return;
	kc_ct_uncount(k, kc_ct_entries(entry));
	kc_ct_demote_alias(c, k);
}

/* The old one in kc_ct; its alias is replaced, or is led astray and expires. */
static __always_inline void kc_ct_forget(const struct kc_ct_key *k)
{
	struct kc_ct *ct = bpf_map_lookup_elem(&kc_ct_v1, k);
	__s64 entries;

	if (!ct)
		return;
	entries = kc_ct_entries(ct);
	if (!bpf_map_delete_elem(&kc_ct_v1, k))
		kc_ct_uncount(k, entries);
}

/* Write what kc_judge() has left; returns KC_ALLOWED or a reason to drop. */
__noinline int kc_commit(struct __sk_buff *skb, bool far)
{
	struct kc_call *c = kc_this_call();
	const struct kc_packet *p;
	struct kc_ct *entry;
	struct kc_ct_key k;
	struct kc_end *e;
	long error;

	if (!c)
		return KC_DROP_INTERNAL;
	p = &c->packet;
	e = kc_this_end(c, far);
	if (e->action == KC_DO_NOTHING)
		return KC_ALLOWED;
	kc_ct_key(&k, p, e->number, e->local, e->direction);
	if (e->action == KC_DO_PROMOTE)
		return kc_ct_promote(c, &k);
	if (e->action == KC_DO_DEMOTE) {
		kc_ct_demote(c, &k);
		return KC_ALLOWED;
	}
	if (!far && c->service.set && kc_svc_alias(c, &k, 0))
		return KC_DROP_CT_FULL;
	entry = &c->entry;
	__builtin_memset(entry, 0, sizeof(*entry));
	entry->last = bpf_ktime_get_coarse_ns();
	kc_ct_touch(entry, p, e->direction, 0);
	entry->epoch = e->epoch;
	entry->rule_id = e->bit;
	entry->flags = e->flags;
	entry->direction = e->direction;
	if (!far && c->service.set) {
		entry->nat_port = c->service.port;
		kc_copy16(entry->nat, c->service.addr);
	} else if (e->asked_port) {
		entry->asked_port = e->asked_port;
		kc_copy16(entry->nat, e->asked);
	}
	error = bpf_map_update_elem(&kc_ct_new_v1, &k, entry, BPF_ANY);
	if (!error && e->action == KC_DO_REOPEN)
		kc_ct_forget(&k);
	if (error && !(e->ct_flags & KC_CT_OWN))
		return KC_DROP_CT_FULL;
	if (!(e->ct_flags & KC_CT_OWN))
		kc_tell(skb, far, KC_ALLOWED);
	return KC_ALLOWED;
}

#endif

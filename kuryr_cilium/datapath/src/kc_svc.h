/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Services: what a pod sends to the address of a service goes to one of its
 * backends, and is judged as that.
 *
 * A flow keeps its backend: an alias in the tables of connections leads from
 * the service to it, and lives as long as the connection. So packets of
 * connections that need no service cost nothing here.
 */
#ifndef KC_SVC_H
#define KC_SVC_H

#include "kc_nat.h"
#include "kc_conn.h"
#include "kc_spoof.h"

/* As many backends are tried if a flow would be taken for another one. */
#define KC_TRIES 4

/* Whether a connection to a backend is one of this flow, or there is none. */
static __always_inline bool kc_svc_free(struct __sk_buff *skb,
					struct kc_call *c, struct kc_ct_key *k,
					__u64 now)
{
	struct kc_ct *ct;
	bool half;

	(void)skb;
	k->rport = c->backend.port;
	kc_copy16(k->raddr, c->backend.addr);
	ct = kc_ct_find(k, &half);
	return !ct || kc_ct_expired(ct, k->proto, now) ||
	       ct->flags & KC_CT_CLOSING ||
	       (ct->nat_port == c->service.port &&
		kc_same16(ct->nat, c->service.addr));
}

/* Addresses by which a pod sees itself through a service: 0, 4 or 6. */
static __always_inline const struct kc_backend *kc_svc_self(bool v6)
{
	struct kc_backend_key key = { .index = v6 ? 6 : 4 };

	return bpf_map_lookup_elem(&kc_backend_v1, &key);
}

/*
 * Fill c->backend. Returns 0 or the reason to drop.
 *
 * network: in which the MAC addresses of backends are of use.
 * usable: whether this flow can go to c->backend.
 */
static __always_inline int
kc_svc_choose(struct __sk_buff *skb, struct kc_call *c,
	      const struct kc_svc *svc, __u32 network,
	      bool (*usable)(struct __sk_buff *skb, struct kc_call *c,
			     struct kc_ct_key *k, __u64 now),
	      struct kc_ct_key *k, __u64 now)
{
	__u32 count = svc->count, affinity = svc->affinity, first, i;
	struct kc_backend_key key = { .backends = svc->backends };
	const struct kc_backend *b;
	struct kc_affinity *known;

	c->client.service = svc->number;
	kc_copy16(c->client.client, c->packet.saddr);
	if (affinity) {
		known = bpf_map_lookup_elem(&kc_affinity_v1, &c->client);
		if (known && kc_since(known->last, now) <=
			     affinity * KC_SECOND) {
			known->last = now;
			c->backend.port = known->port;
			kc_copy16(c->backend.addr, known->addr);
			__builtin_memcpy(c->backend.mac, known->mac, 6);
			return usable(skb, c, k, now) ? 0 : KC_DROP_SERVICE_TUPLE;
		}
	}
	first = bpf_get_prandom_u32();
	for (i = 0; i < KC_TRIES; i++) {
		key.index = (first + i) % count;
		b = bpf_map_lookup_elem(&kc_backend_v1, &key);
		if (!b)
			return KC_DROP_TABLES;
		c->backend.port = b->port;
		kc_copy16(c->backend.addr, b->addr);
		if (b->network == network)
			__builtin_memcpy(c->backend.mac, b->mac, 6);
		else
			__builtin_memset(c->backend.mac, 0, 6);
		if (usable(skb, c, k, now))
			break;
	}
	if (i == KC_TRIES)
		return KC_DROP_SERVICE_TUPLE;
	if (affinity) {
		c->affinity.last = now;
		c->affinity.port = c->backend.port;
		kc_copy16(c->affinity.addr, c->backend.addr);
		__builtin_memcpy(c->affinity.mac, c->backend.mac, 6);
		bpf_map_update_elem(&kc_affinity_v1, &c->client, &c->affinity,
				    BPF_ANY);
	}
	return 0;
}

/* Write the entry that leads from the service to the backend of k. */
static __always_inline long kc_svc_alias(struct kc_call *c,
					 const struct kc_ct_key *k, __u16 flags)
{
	struct kc_ct *entry = &c->entry;

	kc_ct_alias_key(&c->alias, k, c->service.port, c->service.addr);
	__builtin_memset(entry, 0, sizeof(*entry));
	entry->last = bpf_ktime_get_coarse_ns();
	entry->flags = KC_CT_ALIAS | flags;
	entry->direction = KC_EGRESS;
	entry->nat_port = c->backend.port;
	kc_copy16(entry->nat, c->backend.addr);
	__builtin_memcpy(&entry->bytes[0], c->backend.mac, 6);
	/* One that was left there by an earlier flow would be found first. */
	bpf_map_delete_elem(&kc_ct_v1, &c->alias);
	return bpf_map_update_elem(&kc_ct_new_v1, &c->alias, entry, BPF_ANY);
}

/*
 * A pod that is its own backend: it sees itself under a reserved address, so
 * that its answers come by here too. Policy has no say: a pod can't be kept
 * from itself. Returns 0 or the reason to drop.
 */
__noinline int kc_svc_hairpin(struct __sk_buff *skb, bool opening)
{
	struct kc_call *c = kc_this_call();
	const struct kc_backend *self;
	struct kc_packet *p;
	struct kc_ct *entry;
	struct kc_ct_key k;
	struct kc_end *e;
	int reason;

	if (!c || !skb)
		return KC_DROP_INTERNAL;
	p = &c->packet;
	e = &c->near;
	self = kc_svc_self(p->flags & KC_PACKET_V6);
	if (!self)
		return KC_DROP_TABLES;
	c->source.port = p->sport;
	kc_copy16(c->source.addr, self->addr);
	if (opening) {
		kc_ct_key(&k, p, e->number, e->local, KC_EGRESS);
		if (kc_svc_alias(c, &k, KC_CT_HAIRPIN))
			return KC_DROP_CT_FULL;
		k.lport = c->backend.port;
		k.rport = p->sport;
		kc_copy16(k.raddr, self->addr);
		entry = &c->entry;
		entry->flags = KC_CT_HAIRPIN;
		entry->nat_port = c->service.port;
		kc_copy16(entry->nat, c->service.addr);
		if (bpf_map_update_elem(&kc_ct_new_v1, &k, entry, BPF_ANY))
			return KC_DROP_CT_FULL;
	}
	c->backend.set = KC_NAT_SET | KC_NAT_HAIRPIN;
	reason = kc_rewrite(skb, true);
	return reason ? reason : kc_rewrite(skb, false);
}

/* The answer of a pod to itself. Returns 0 or the reason to drop. */
static __always_inline int kc_svc_hairpin_back(struct __sk_buff *skb,
					       struct kc_call *c,
					       const struct kc_ct *ct)
{
	int reason;

	c->source.port = ct->nat_port;
	kc_copy16(c->source.addr, ct->nat);
	c->backend.port = c->packet.dport;
	kc_copy16(c->backend.addr, c->packet.saddr);
	c->backend.set = KC_NAT_SET | KC_NAT_HAIRPIN;
	reason = kc_rewrite(skb, true);
	return reason ? reason : kc_rewrite(skb, false);
}

/* Whether a packet may be addressed to a service. */
static __always_inline bool kc_has_service(const struct kc_packet *p)
{
	return !(p->flags & KC_PACKET_GROUP) &&
	       (p->proto == IPPROTO_TCP || p->proto == IPPROTO_UDP ||
		p->proto == IPPROTO_SCTP);
}

/*
 * What the pod of near sends: if it is to a service, send it to a backend.
 * c->backend.set tells whether it was. Returns 0 or the reason to drop.
 */
__noinline int kc_service(struct __sk_buff *skb)
{
	struct kc_call *c = kc_this_call();
	__u64 now = bpf_ktime_get_coarse_ns();
	const struct kc_endpoint *ep;
	const struct kc_svc *svc;
	struct kc_packet *p;
	struct kc_ct_key k;
	struct kc_ct *ct;
	struct kc_end *e;
	__u32 number;
	int reason;
	bool half;

	if (!c || !skb)
		return KC_DROP_INTERNAL;
	p = &c->packet;
	e = &c->near;
	c->service.port = p->dport;
	kc_copy16(c->service.addr, p->daddr);
	kc_ct_key(&k, p, e->number, e->local, KC_EGRESS);
	ct = kc_ct_find(&k, &half);
	if (ct && ct->flags & KC_CT_HAIRPIN && !(ct->flags & KC_CT_ALIAS)) {
		ct->last = now;
		return kc_svc_hairpin_back(skb, c, ct);
	}
	if (ct && ct->flags & KC_CT_ALIAS) {
		c->backend.port = ct->nat_port;
		kc_copy16(c->backend.addr, ct->nat);
		__builtin_memcpy(c->backend.mac, &ct->bytes[0], 6);
		if (ct->flags & KC_CT_HAIRPIN) {
			if (!(p->flags & KC_PACKET_OPENING))
				return kc_svc_hairpin(skb, false);
		} else {
			k.rport = c->backend.port;
			kc_copy16(k.raddr, c->backend.addr);
			ct = kc_ct_find(&k, &half);
			if (ct && ct->nat_port == c->service.port &&
			    kc_same16(ct->nat, c->service.addr) &&
			    !kc_ct_expired(ct, p->proto, now) &&
			    !(p->flags & KC_PACKET_OPENING &&
			      ct->flags & KC_CT_CLOSING))
				goto found;
		}
	}
	svc = kc_svc_of(&c->svc, p->daddr, p->dport, p->proto);
	if (!svc)
		return 0;
	c->service.service = svc->number;
	if (p->flags & KC_PACKET_ANSWER)
		return KC_DROP_NO_CONNECTION;
	if (!svc->count)
		return KC_DROP_NO_BACKEND;
	number = e->number;
	ep = bpf_map_lookup_elem(&kc_endpoint_v1, &number);
	if (!ep)
		return KC_DROP_NO_ENDPOINT;
	reason = kc_svc_choose(skb, c, svc, ep->network, kc_svc_free, &k, now);
	if (reason)
		return reason;
	if (kc_owned(ep, c->backend.addr) >= 0)
		return kc_svc_hairpin(skb, true);
found:
	c->service.set = KC_NAT_SET;
	c->backend.set = KC_NAT_SET;
	return kc_rewrite(skb, false);
}

#endif

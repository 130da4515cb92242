/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* ICMP errors pass if the packet that they quote belongs to a connection. */
#ifndef KC_ICMP_H
#define KC_ICMP_H

#include "kc_ct.h"
#include "kc_spoof.h"

/* Read the packet that an error quotes; 0 or the reason to drop. */
__noinline int kc_parse_quoted(struct __sk_buff *skb)
{
	struct kc_call *c = kc_this_call();
	const struct kc_packet *p;
	struct kc_packet *quoted;
	int reason;

	if (!c)
		return KC_DROP_INTERNAL;
	p = &c->packet;
	quoted = &c->quoted;
	__builtin_memset(quoted, 0, sizeof(*quoted));
	quoted->end = p->end;
	if (p->flags & KC_PACKET_V6)
		reason = kc_parse_ipv6(skb, quoted, p->l4 + 8, true);
	else
		reason = kc_parse_ipv4(skb, quoted, p->l4 + 8, true);
	if (reason)
		return reason;
	if (quoted->frag & KC_IP_OFFSET)
		return KC_DROP_ICMP_UNRELATED;
	return kc_parse_l4(skb, quoted, true);
}

/*
 * Judge an ICMP error at one end. Returns KC_ALLOWED or the reason to drop;
 * nothing is left to write.
 */
__noinline int kc_judge_error(struct __sk_buff *skb, bool far)
{
	struct kc_call *c = kc_this_call();
	const struct kc_packet *p, *quoted;
	const struct kc_endpoint *ep;
	struct kc_ct_key k;
	struct kc_end *e;
	struct kc_ct *ct;
	__u32 number;
	bool out, half;
	int reason;

	if (!c)
		return KC_DROP_INTERNAL;
	p = &c->packet;
	quoted = &c->quoted;
	e = kc_this_end(c, far);
	out = e->direction == KC_EGRESS;
	number = e->number;
	ep = bpf_map_lookup_elem(&kc_endpoint_v1, &number);
	if (!ep)
		return KC_DROP_NO_ENDPOINT;
	e->action = KC_DO_NOTHING;
	e->judged_by = e->ruleset;
	e->flags = e->ct_flags;
	if (e->ct_flags & KC_CT_OWN)
		return KC_ALLOWED;
	reason = kc_parse_quoted(skb);
	if (reason)
		return reason;
	/* A pod is no router. */
	if (out && p->proto == IPPROTO_ICMP && p->icmp_type == ICMP_REDIRECT)
		return KC_DROP_ICMP_UNRELATED;
	/*
	 * The quoted packet went the other way. A pod answers who sent it,
	 * else it could reach anybody by quoting anything; to a pod errors
	 * come from any router.
	 */
	if (kc_owned(ep, out ? quoted->daddr : quoted->saddr) != e->local)
		return KC_DROP_ICMP_UNRELATED;
	if (out && !kc_same16(p->daddr, quoted->saddr))
		return KC_DROP_ICMP_UNRELATED;
	kc_ct_key(&k, quoted, e->number, e->local,
		  out ? KC_INGRESS : KC_EGRESS);
	ct = kc_ct_find(&k, &half);
	/* The pod answers a service: its backend gets it. */
	if (ct && ct->flags & KC_CT_ALIAS && out && !far) {
		c->service.set = KC_NAT_SET;
		c->service.port = quoted->sport;
		kc_copy16(c->service.addr, quoted->saddr);
		c->backend.port = ct->nat_port;
		kc_copy16(c->backend.addr, ct->nat);
		reason = kc_rewrite_error(skb, false);
		if (reason)
			return reason;
		c->backend.set = KC_NAT_SET;
		kc_ct_key(&k, quoted, e->number, e->local, KC_INGRESS);
		ct = kc_ct_find(&k, &half);
	}
	if (!ct || ct->flags & (KC_CT_ALIAS | KC_CT_HAIRPIN) || kc_ct_expired(ct, k.proto, bpf_ktime_get_coarse_ns()))
		return KC_DROP_ICMP_UNRELATED;
	if (ct->nat_port && !out) {
		c->source.set = KC_NAT_SET;
		c->source.port = ct->nat_port;
		kc_copy16(c->source.addr, ct->nat);
	}
	e->flags = ct->flags;
	return kc_ct_recheck(skb, ct, &k, e, &c->query);
}

#endif

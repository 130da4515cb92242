/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* ICMP errors pass if the packet that they quote belongs to a connection. */
#ifndef KC_ICMP_H
#define KC_ICMP_H

#include "kc_ct.h"
#include "kc_spoof.h"

struct kc_quote {
	__u8 saddr[16] __attribute__((aligned(8)));
	__u8 daddr[16];
	__be16 sport;
	__be16 dport;
	__u8 proto;
};

/* What an error quotes. */
static __always_inline int kc_quoted(struct __sk_buff *skb,
				     const struct kc_packet *p,
				     struct kc_quote *inner)
{
	__u8 h[8] __attribute__((aligned(8))) = {};
	__u32 offset = p->l4 + 8;

	if (p->flags & KC_PACKET_V6) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
			return KC_DROP_TRUNCATED;
		__builtin_memcpy(inner->saddr, &ip.saddr, 16);
		__builtin_memcpy(inner->daddr, &ip.daddr, 16);
		inner->proto = ip.nexthdr;
		offset += sizeof(ip);
	} else {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
			return KC_DROP_TRUNCATED;
		if (ip.frag_off & bpf_htons(KC_IP_OFFSET))
			return KC_DROP_ICMP_UNRELATED;
		kc_map4(inner->saddr, ip.saddr);
		kc_map4(inner->daddr, ip.daddr);
		inner->proto = ip.protocol;
		offset += ip.ihl * 4;
	}
	if (!kc_has_port(inner->proto))
		return 0;
	if (bpf_skb_load_bytes(skb, offset, h, 8))
		return KC_DROP_TRUNCATED;
	if (kc_is_icmp(inner->proto)) {
		inner->sport = *(__be16 *)(h + 4);
		inner->dport = inner->sport;
	} else {
		inner->sport = *(__be16 *)h;
		inner->dport = *(__be16 *)(h + 2);
	}
	return 0;
}

/* Returns KC_ALLOWED or the reason to drop. */
__noinline int kc_judge_error(struct __sk_buff *skb,
				     struct kc_packet *p, struct kc_end *e,
				     struct kc_result *r,
				     struct kc_endpoint *ep)
{
	struct kc_quote inner = {};
	struct kc_ct_key k = {};
	struct kc_ct *c;
	int index, reason;

	if (!p || !e || !r || !ep)
		return KC_DROP_TABLES;
	r->action = KC_DO_NOTHING;
	r->bit = KC_NO_BIT;
	r->ruleset = e->ruleset;
	if (!(p->flags & KC_PACKET_V6) && (p->icmp_type == ICMP_REDIRECT ||
					   p->icmp_type == ICMP_SOURCE_QUENCH))
		return KC_DROP_MALFORMED;
	reason = kc_quoted(skb, p, &inner);
	if (reason)
		return reason;
	/* The quoted packet went the other way than the error. */
	k.endpoint = e->number;
	k.proto = inner.proto;
	if (e->direction == KC_INGRESS) {
		index = kc_owned(ep, inner.saddr);
		k.lport = inner.sport;
		k.rport = inner.dport;
		__builtin_memcpy(k.raddr, inner.daddr, 16);
	} else {
		index = kc_owned(ep, inner.daddr);
		k.lport = inner.dport;
		k.rport = inner.sport;
		__builtin_memcpy(k.raddr, inner.saddr, 16);
	}
	if (index < 0)
		return KC_DROP_ICMP_UNRELATED;
	k.local = index;
	c = bpf_map_lookup_elem(&kc_ct_v1, &k);
	if (!c)
		c = bpf_map_lookup_elem(&kc_ct_new_v1, &k);
	if (!c || kc_ct_expired(c, k.proto, bpf_ktime_get_coarse_ns()))
		return KC_DROP_ICMP_UNRELATED;
	r->ct_flags = c->flags;
	return kc_ct_recheck(c, &k, e, r, p->flags & KC_PACKET_V6);
}

#endif

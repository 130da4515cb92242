/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Rulesets: two lookups and an AND.
 *
 * (ruleset, class) gives the bits of the groups whose peers include the
 * class, (ruleset, protocol, port) those whose ports include the port; the
 * first common bit decides. No common bit, or a row that must be there and is
 * not: drop.
 */
#ifndef KC_POLICY_H
#define KC_POLICY_H

#include "kc_parse.h"

#define KC_PAGE_BITS (KC_WORDS * 64)
#define KC_PORT_PROTOCOL 48
#define KC_PORT_EXACT 64
#define KC_CIDR_EXACT (32 + 128)
/* At most so often another page, or another tier after PASS, is looked at. */
#define KC_STEPS (KC_PAGES + 4)

static __always_inline __u32 kc_class(struct kc_query *q)
{
	struct kc_addr_key key = { .space = q->space };
	struct kc_cidr_key prefix = { .plen = KC_CIDR_EXACT,
				      .space = bpf_htonl(q->space) };
	struct kc_peer *found;

	q->entity = KC_ENTITY_WORLD;
	if (q->as_world)
		return KC_ENTITY_WORLD;
	kc_copy16(key.addr, q->raddr);
	found = bpf_map_lookup_elem(&kc_addr_v1, &key);
	if (!found) {
		kc_copy16(prefix.addr, q->raddr);
		found = bpf_map_lookup_elem(&kc_cidr_v1, &prefix);
	}
	if (!found)
		return KC_ENTITY_WORLD;
	q->entity = found->entity;
	return found->class;
}

/*
 * Number of the lowest bit that is set; x is not 0. The bits below it are
 * counted without branches: each would double what the verifier walks. The
 * barrier keeps clang 14 from making it a popcount, which its BPF back end
 * can't select.
 */
static __always_inline __u32 kc_lowest(__u64 x)
{
	x = ~x & (x - 1);
	x -= x >> 1 & 0x5555555555555555ull;
	x = (x & 0x3333333333333333ull) + (x >> 2 & 0x3333333333333333ull);
	asm volatile("" : "+r"(x));
	x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0full;
	return x * 0x0101010101010101ull >> 56;
}

/*
 * The lowest common bit of the two rows of a page, at or above start; a
 * number that no bit has if there is none.
 */
__noinline __u32 kc_common(struct __sk_buff *skb, __u32 page, __u32 start)
{
	__u32 base = (page & (KC_PAGES - 1)) * KC_PAGE_BITS, w;
	struct kc_call *c = kc_this_call();
	__u64 x;

	if (!c || !skb)
		return KC_NO_BIT;
	for (w = 0; w < KC_WORDS; w++, base += 64) {
		x = c->peers[w] & c->ports[w];
		if (start > base)
			x &= start - base < 64 ? ~0ull << (start - base) : 0;
		if (x)
			return base + kc_lowest(x);
	}
	return KC_NO_BIT;
}

static __always_inline void kc_row(__u64 *to, const struct kc_bits *from)
{
	to[0] = from->w[0];
	to[1] = from->w[1];
	to[2] = from->w[2];
	to[3] = from->w[3];
}

/*
 * Judge what the query of this call asks; fills its answers. Returns
 * KC_ALLOWED or the reason to drop.
 *
 * A global function: the verifier walks it once, whoever calls it.
 */
__noinline int kc_policy(struct __sk_buff *skb)
{
	struct kc_call *c = kc_this_call();
	struct kc_rs_port_key port_key = {};
	struct kc_rs_peer_key peer_key = {};
	struct kc_rs_group_key group_key = {};
	const struct kc_rs_group *group;
	const struct kc_bits *found;
	__u32 page = 0, start = 0, common, bit, class;
	struct kc_query *q;
	int i;

	if (!c || !skb)
		return KC_DROP_INTERNAL;
	q = &c->query;
	q->bit = KC_NO_BIT;
	class = kc_class(q);
	if (q->ruleset == KC_RULESET_NONE)
		return KC_DROP_NOT_READY;
	if (q->ruleset == KC_RULESET_DENY)
		return KC_DROP_POLICY_DENY;
	if (q->ruleset == KC_RULESET_ALLOW)
		return KC_ALLOWED;
	port_key.plen = q->has_port ? KC_PORT_EXACT : KC_PORT_PROTOCOL;
	port_key.ruleset = bpf_htonl(q->ruleset);
	port_key.proto = q->proto;
	port_key.port = q->port;
	peer_key.ruleset = q->ruleset;
	peer_key.class = class;
	found = bpf_map_lookup_elem(&kc_rs_peer_v1, &peer_key);
	if (!found) {
		peer_key.class = q->entity;
		found = bpf_map_lookup_elem(&kc_rs_peer_v1, &peer_key);
		if (!found)
			return KC_DROP_TABLES;
	}
	group_key.ruleset = q->ruleset;
	for (i = 0; i < KC_STEPS; i++) {
		/* Copied at once: a replaced row's memory is used again. */
		kc_row(c->peers, found);
		common = found->pages;
		found = bpf_map_lookup_elem(&kc_rs_port_v1, &port_key);
		if (!found)
			return page ? KC_DROP_TABLES : KC_DROP_POLICY;
		kc_row(c->ports, found);
		common &= found->pages;
		bit = kc_common(skb, page, start);
		if (bit != KC_NO_BIT) {
			group_key.bit = bit;
			group = bpf_map_lookup_elem(&kc_rs_group_v1,
						    &group_key);
			if (!group)
				return KC_DROP_TABLES;
			q->bit = bit;
			if (group->verdict == KC_VERDICT_ALLOW)
				return KC_ALLOWED;
			if (group->verdict != KC_VERDICT_PASS)
				return KC_DROP_POLICY_DENY;
			start = group->next_tier;
			if (start <= bit)
				return KC_DROP_TABLES;
			q->bit = KC_NO_BIT;
			/* The same page again, and then those after it. */
		} else {
			/* The next page that both have. */
			common &= ~0u << (page + 1);
			if (!common)
				return KC_DROP_POLICY;
			page = kc_lowest(common) & (KC_PAGES - 1);
			port_key.page = page;
			peer_key.page = page;
		}
		found = bpf_map_lookup_elem(&kc_rs_peer_v1, &peer_key);
		if (!found)
			return KC_DROP_TABLES;
	}
	return KC_DROP_POLICY;
}

#endif

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

#include "kc_event.h"
#include "kc_maps.h"
#include "kc_packet.h"

#define KC_PORT_PROTOCOL 48
#define KC_PORT_EXACT 64
#define KC_CIDR_EXACT (32 + 128)

struct kc_query {
	__u8 raddr[16];
	__u32 space;
	__u32 ruleset;
	__be16 port;
	__u8 proto;
	__u8 as_world;		/* whatever the address is */
	__u32 bit;		/* out: of the group that decided */
	__u8 entity;		/* out: of the peer */
	__u8 has_port;
	__u8 pad[2];
};

static __always_inline void kc_peer(struct kc_query *q, struct kc_peer *to)
{
	struct kc_addr_key key = { .space = q->space };
	struct kc_cidr_key prefix = { .plen = KC_CIDR_EXACT,
				      .space = bpf_htonl(q->space) };
	struct kc_peer *found;

	to->class = KC_ENTITY_WORLD;
	to->entity = KC_ENTITY_WORLD;
	if (q->as_world)
		return;
	__builtin_memcpy(key.addr, q->raddr, 16);
	found = bpf_map_lookup_elem(&kc_addr_v1, &key);
	if (!found) {
		__builtin_memcpy(prefix.addr, q->raddr, 16);
		found = bpf_map_lookup_elem(&kc_cidr_v1, &prefix);
	}
	if (found) {
		to->class = found->class;
		to->entity = found->entity;
	}
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
 * The first common bit of one page that is not below start; -1: none.
 *
 * A global function, as all that are not inlined: the verifier walks it once,
 * and takes what it returns for any number.
 */
__noinline int kc_page_bit(const struct kc_bits *a, const struct kc_bits *b,
			   __u32 page, __u32 start)
{
	__u32 base = (page & (KC_PAGES - 1)) * 256;
	__u64 x;
	int w;

	if (!a || !b)
		return -1;
	for (w = 0; w < KC_WORDS; w++, base += 64) {
		x = a->w[w] & b->w[w];
		if (!x || start >= base + 64)
			continue;
		if (start > base)
			x &= ~0ull << (start - base);
		if (x)
			return base + kc_lowest(x);
	}
	return -1;
}

/* The next page that both rows have; -1: none. */
__noinline int kc_next_page(__u32 common, __u32 page)
{
	common &= 0xffff & ~0u << ((page & (KC_PAGES - 1)) + 1);
	return common ? (int)kc_lowest(common) : -1;
}

/* At most this many pages, and tiers left by PASS, are looked at. */
#define KC_STEPS (KC_PAGES + 4)

/* Returns KC_ALLOWED or the reason to drop. */
__noinline int kc_policy(struct kc_query *q)
{
	struct kc_rs_port_key port_key = {};
	struct kc_rs_peer_key peer_key = {};
	struct kc_rs_group_key group_key = {};
	const struct kc_bits *peers, *ports;
	const struct kc_rs_group *group;
	__u32 page = 0, start = 0;
	struct kc_peer peer;
	int i, bit;

	if (!q)
		return KC_DROP_TABLES;
	q->bit = KC_NO_BIT;
	kc_peer(q, &peer);
	q->entity = peer.entity;
	switch (q->ruleset) {
	case KC_RULESET_NONE:
		return KC_DROP_NOT_READY;
	case KC_RULESET_DENY:
		return KC_DROP_POLICY_DENY;
	case KC_RULESET_ALLOW:
		return KC_ALLOWED;
	}
	port_key.plen = q->has_port ? KC_PORT_EXACT : KC_PORT_PROTOCOL;
	port_key.ruleset = bpf_htonl(q->ruleset);
	port_key.proto = q->proto;
	port_key.port = q->port;
	peer_key.ruleset = q->ruleset;
	peer_key.class = peer.class;
	peers = bpf_map_lookup_elem(&kc_rs_peer_v1, &peer_key);
	if (!peers) {
		peer_key.class = peer.entity;
		peers = bpf_map_lookup_elem(&kc_rs_peer_v1, &peer_key);
		if (!peers)
			return KC_DROP_TABLES;
	}
	ports = bpf_map_lookup_elem(&kc_rs_port_v1, &port_key);
	if (!ports)
		return KC_DROP_POLICY;
	group_key.ruleset = q->ruleset;
	for (i = 0; i < KC_STEPS; i++) {
		__u16 common = peers->pages & ports->pages;

		bit = kc_page_bit(peers, ports, page, start);
		if (bit < 0) {
			bit = kc_next_page(common, page);
			if (bit < 0)
				return KC_DROP_POLICY;
			page = bit;
			port_key.page = page;
			peer_key.page = page;
			peers = bpf_map_lookup_elem(&kc_rs_peer_v1, &peer_key);
			ports = bpf_map_lookup_elem(&kc_rs_port_v1, &port_key);
			if (!peers || !ports)
				return KC_DROP_TABLES;
			continue;
		}
		group_key.bit = bit;
		group = bpf_map_lookup_elem(&kc_rs_group_v1, &group_key);
		if (!group)
			return KC_DROP_TABLES;
		q->bit = bit;
		if (group->verdict == KC_VERDICT_ALLOW)
			return KC_ALLOWED;
		if (group->verdict != KC_VERDICT_PASS)
			return KC_DROP_POLICY_DENY;
		if (group->next_tier <= (__u32)bit)
			return KC_DROP_TABLES;
		start = group->next_tier;
	}
	return KC_DROP_POLICY;
}

#endif

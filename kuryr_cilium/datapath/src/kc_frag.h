/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Fragments: only the first has a transport header, so what it says is
 * remembered for the others. A first one that does not hold all of it drops
 * (RFC 1858, RFC 7112), and so do others that come before it.
 */
#ifndef KC_FRAG_H
#define KC_FRAG_H

#include "kc_parse.h"

#define KC_FRAG_LIFE (60 * KC_SECOND)

/* Returns 0 or the reason to drop. */
__noinline int kc_fragment(struct __sk_buff *skb, __u32 endpoint)
{
	struct kc_call *c = kc_this_call();
	struct kc_frag_key key = {};
	struct kc_packet *p;
	struct kc_frag *known, first = {};
	__u64 now = bpf_ktime_get_coarse_ns();
	__u8 proto;

	if (!c || !skb)
		return KC_DROP_INTERNAL;
	p = &c->packet;
	key.endpoint = endpoint;
	key.id = p->frag_id;
	/* Receivers of IPv6 go by the next header of the first one alone. */
	if (!(p->flags & KC_PACKET_V6))
		key.proto = p->proto;
	kc_copy16(key.saddr, p->saddr);
	kc_copy16(key.daddr, p->daddr);
	if (!(p->frag & KC_IP_OFFSET)) {
		first.time = now;
		first.sport = p->sport;
		first.dport = p->dport;
		first.port = p->port;
		first.proto = p->proto;
		first.flags = p->flags;
		return bpf_map_update_elem(&kc_frag_v1, &key, &first, BPF_ANY) ?
		       KC_DROP_INTERNAL : 0;
	}
	known = bpf_map_lookup_elem(&kc_frag_v1, &key);
	if (known && kc_since(known->time, now) > KC_FRAG_LIFE)
		known = NULL;
	/* 8 bytes in are the flags of TCP and the first chunk of SCTP. */
	proto = known ? known->proto : key.proto;
	if ((p->frag & KC_IP_OFFSET) == 1 &&
	    (proto == IPPROTO_TCP || proto == IPPROTO_SCTP))
		return KC_DROP_FRAGMENT_OVERLAP;
	if (!known || known->flags & KC_PACKET_ERROR)
		return KC_DROP_FRAGMENT;
	p->proto = known->proto;
	p->sport = known->sport;
	p->dport = known->dport;
	p->port = known->port;
	p->flags |= known->flags & (KC_PACKET_ECHO | KC_PACKET_ND);
	/* The first one has opened the connection. */
	if (known->flags & (KC_PACKET_OPENING | KC_PACKET_ANSWER))
		p->flags |= KC_PACKET_ANSWER;
	return 0;
}

#endif

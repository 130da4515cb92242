/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Finding the entries of connections. */
#ifndef KC_CONN_H
#define KC_CONN_H

#include "kc_parse.h"

/* How long an entry is good for after its last packet. */
#define KC_LIFE_TCP (86400 * KC_SECOND)
#define KC_LIFE_SYN (60 * KC_SECOND)
#define KC_LIFE_CLOSING (10 * KC_SECOND)
#define KC_LIFE_OTHER (180 * KC_SECOND)
#define KC_LIFE_OTHER_NEW (30 * KC_SECOND)
#define KC_LIFE_TOMBSTONE (120 * KC_SECOND)

/* An echo request, or a later fragment of one. */
static __always_inline bool kc_asks(const struct kc_packet *p)
{
	__u8 type = bpf_ntohs(p->port) >> 8;

	return type == ICMP_ECHO || type == KC_ICMP6_ECHO_REQUEST;
}

static __always_inline void kc_ct_key(struct kc_ct_key *k,
				      const struct kc_packet *p,
				      __u32 endpoint, __u8 local, __u8 direction)
{
	k->endpoint = endpoint;
	k->proto = p->proto;
	k->local = local;
	k->zero = 0;
	if (direction == KC_EGRESS) {
		k->lport = p->sport;
		k->rport = p->dport;
		kc_copy16(k->raddr, p->daddr);
	} else {
		k->lport = p->dport;
		k->rport = p->sport;
		kc_copy16(k->raddr, p->saddr);
	}
	if (p->flags & KC_PACKET_ECHO)
		k->rport = kc_asks(p) == (direction == KC_EGRESS) ?
			   bpf_htons(KC_ECHO_OURS) : bpf_htons(KC_ECHO_THEIRS);
}

static __always_inline bool kc_ct_expired(const struct kc_ct *ct, __u8 proto,
					  __u64 now)
{
	__s64 life;

	if (ct->flags & KC_CT_TOMBSTONE)
		life = KC_LIFE_TOMBSTONE;
	else if (ct->flags & KC_CT_CLOSING)
		life = KC_LIFE_CLOSING;
	else if (proto == IPPROTO_TCP || proto == IPPROTO_SCTP)
		life = ct->flags & KC_CT_REPLIED ? KC_LIFE_TCP : KC_LIFE_SYN;
	else
		life = ct->flags & KC_CT_REPLIED ? KC_LIFE_OTHER :
		       KC_LIFE_OTHER_NEW;
	return kc_since(ct->last, now) > life;
}

/* In the table of open connections, or (half) of half-open ones. */
static __always_inline struct kc_ct *kc_ct_find(const struct kc_ct_key *k,
						bool *half)
{
	struct kc_ct *ct = bpf_map_lookup_elem(&kc_ct_v1, k);

	*half = !ct;
	if (ct)
		return ct;
	ct = bpf_map_lookup_elem(&kc_ct_new_v1, k);
	return ct && ct->flags & KC_CT_OPEN ? NULL : ct;
}

/* The key of the alias of a connection to a service. */
static __always_inline void kc_ct_alias_key(struct kc_ct_key *alias,
					    const struct kc_ct_key *k,
					    __be16 nat_port, const __u8 *nat)
{
	*alias = *k;
	alias->rport = nat_port;
	kc_copy16(alias->raddr, nat);
}

#endif

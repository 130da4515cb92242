/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Finding the service that has an address. */
#ifndef KC_FIND_H
#define KC_FIND_H

#include "kc_parse.h"

/* A row with this protocol, and port 0, says that an address is a node's. */
#define KC_PROTO_NODE 255

static __always_inline const struct kc_svc *
kc_svc_find(struct kc_svc_key *key, __be16 port, __u8 proto)
{
	key->port = port;
	key->proto = proto;
	return bpf_map_lookup_elem(&kc_svc_v1, key);
}

/*
 * The service of an address that a pod, or the node, asks; NULL: none. The key
 * is for use here.
 */
static __always_inline const struct kc_svc *
kc_svc_of(struct kc_svc_key *key, const __u8 *addr, __be16 dport, __u8 proto)
{
	__u32 range = kc_meta(KC_META_NODE_PORTS);
	__u16 port = bpf_ntohs(dport);
	const struct kc_svc *svc;

	key->scope = KC_SCOPE_INSIDE;
	kc_copy16(key->addr, addr);
	svc = kc_svc_find(key, dport, proto);
	if (svc)
		return svc;
	if (port >= range >> 16 && port <= (range & 0xffff) &&
	    kc_svc_find(key, 0, KC_PROTO_NODE)) {
		__builtin_memset(key->addr, 0, 16);
		if (kc_mapped(addr))
			kc_map4(key->addr, 0);
		svc = kc_svc_find(key, dport, proto);
		if (svc)
			return svc;
		kc_copy16(key->addr, addr);
	}
	return kc_svc_find(key, 0, 0);
}

#endif

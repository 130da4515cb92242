/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Finding the service that has an address. */
#ifndef KC_FIND_H
#define KC_FIND_H

#include "kc_parse.h"

/* A row with this protocol, and port 0, says that an address is a node's. */
#define KC_PROTO_NODE 255

static __always_inline const struct kc_svc *
kc_svc_find(struct kc_call *c, __be16 port, __u8 proto)
{
	c->svc.port = port;
	c->svc.proto = proto;
	return bpf_map_lookup_elem(&kc_svc_v1, &c->svc);
}

/* The service of an address that is asked; NULL: none. */
static __always_inline const struct kc_svc *
kc_svc_of(struct kc_call *c, const __u8 *addr, __be16 dport, __u8 proto)
{
	__u32 range = kc_meta(KC_META_NODE_PORTS);
	__u16 port = bpf_ntohs(dport);
	const struct kc_svc *svc;

	kc_copy16(c->svc.addr, addr);
	svc = kc_svc_find(c, dport, proto);
	if (svc)
		return svc;
	if (port >= range >> 16 && port <= (range & 0xffff) &&
	    kc_svc_find(c, 0, KC_PROTO_NODE)) {
		__builtin_memset(c->svc.addr, 0, 16);
		if (kc_mapped(addr))
			kc_map4(c->svc.addr, 0);
		svc = kc_svc_find(c, dport, proto);
		if (svc)
			return svc;
		kc_copy16(c->svc.addr, addr);
	}
	return kc_svc_find(c, 0, 0);
}

#endif

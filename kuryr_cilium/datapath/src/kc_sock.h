/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Services for sockets: what one of the host's network namespace, or by TCP one
 * of a pod's, asks of a service is asked of one of its backends, before the
 * kernel chooses a source and a route. What comes back bears the address that
 * was asked.
 *
 * These programs run for whoever makes the call, and may be preempted: all
 * that they need is on the stack.
 */
#ifndef KC_SOCK_H
#define KC_SOCK_H

#include <linux/errno.h>
#include <linux/in.h>

#include "kc_svc.h"

#define KC_AF_INET 2
/* TCP of several paths (RFC 8684) asks as TCP does. */
#define KC_PROTO_MPTCP 262

/*
 * The protocol of a socket that is led; 0: it is not. whose: enum kc_netns of
 * its network namespace.
 */
static __always_inline __u8 kc_sock_proto(__u64 netns, __u32 protocol,
					  __u32 *whose)
{
	__u32 *found;

	if (protocol == KC_PROTO_MPTCP)
		protocol = IPPROTO_TCP;
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return 0;
	found = bpf_map_lookup_elem(&kc_netns_v1, &netns);
	if (!found || (protocol == IPPROTO_UDP && *found != KC_NETNS_NODE))
		return 0;
	*whose = *found;
	return protocol;
}

/* The address that a call is about. */
static __always_inline void kc_sock_read(const struct bpf_sock_addr *ctx,
					 bool v6, struct kc_sock *to)
{
	__u32 *words = (__u32 *)to->addr;

	__builtin_memset(to, 0, sizeof(*to));
	to->port = ctx->user_port;
	if (v6) {
		words[0] = ctx->user_ip6[0];
		words[1] = ctx->user_ip6[1];
		words[2] = ctx->user_ip6[2];
		words[3] = ctx->user_ip6[3];
	} else {
		kc_map4(to->addr, ctx->user_ip4);
	}
}

/* Backends are of the family of the service, mapped addresses included. */
static __always_inline void kc_sock_write(struct bpf_sock_addr *ctx, bool v6,
					  const struct kc_sock *from)
{
	const __u32 *words = (const __u32 *)from->addr;

	/* Else clang keeps addresses of its members, which are no context. */
	asm volatile("" : "+r"(ctx));
	ctx->user_port = from->port;
	if (v6) {
		ctx->user_ip6[0] = words[0];
		ctx->user_ip6[1] = words[1];
		ctx->user_ip6[2] = words[2];
		ctx->user_ip6[3] = words[3];
	} else {
		ctx->user_ip4 = words[3];
	}
}

static __always_inline void kc_sock_key(struct kc_sock_key *key,
					const struct kc_sock *at, __u8 way)
{
	kc_copy16(key->addr, at->addr);
	key->port = at->port;
	key->way = way;
}

/* The service that has an address; NULL: none. */
static __always_inline const struct kc_svc *
kc_sock_service(const struct kc_sock *asked, __u8 proto)
{
	struct kc_svc_key key = {};

	/* To the kernel the address of all zeros is this host, not any node. */
	if (kc_zero16(asked->addr) || (kc_mapped(asked->addr) &&
				       !((__u32 *)asked->addr)[3]))
		return NULL;
	return kc_svc_of(&key, asked->addr, asked->port, proto);
}

/*
 * Choose a backend of a service that has some. To affinity the node is a
 * client with an address of all zeros. Returns 0 or an error.
 */
static __always_inline int kc_sock_choose(const struct kc_svc *svc, bool v4,
					  struct kc_sock *chosen)
{
	struct kc_backend_key key = { .backends = svc->backends };
	struct kc_affinity_key client = { .service = svc->number };
	__u32 count = svc->count, affinity = svc->affinity;
	__u64 now = bpf_ktime_get_coarse_ns();
	struct kc_affinity *known, fresh = {};
	const struct kc_backend *b;

	if (!count)
		return -ECONNREFUSED;
	__builtin_memset(chosen, 0, sizeof(*chosen));
	if (affinity) {
		if (v4)
			kc_map4(client.client, 0);
		known = bpf_map_lookup_elem(&kc_affinity_v1, &client);
		if (known && kc_since(known->last, now) <=
			     affinity * KC_SECOND) {
			known->last = now;
			chosen->port = known->port;
			kc_copy16(chosen->addr, known->addr);
			return 0;
		}
	}
	key.index = bpf_get_prandom_u32() % count;
	b = bpf_map_lookup_elem(&kc_backend_v1, &key);
	if (!b)
		return -EHOSTUNREACH;
	chosen->port = b->port;
	kc_copy16(chosen->addr, b->addr);
	if (affinity) {
		fresh.last = now;
		fresh.port = b->port;
		kc_copy16(fresh.addr, b->addr);
		bpf_map_update_elem(&kc_affinity_v1, &client, &fresh, BPF_ANY);
	}
	return 0;
}

/* Let answers of a backend bear the address of the service. */
static __always_inline long kc_sock_remember(struct kc_sock_key *key,
					     const struct kc_sock *backend,
					     const struct kc_sock *asked)
{
	const struct kc_sock *known;

	kc_sock_key(key, backend, KC_SOCK_FROM);
	known = bpf_map_lookup_elem(&kc_sock_v1, key);
	if (known && known->port == asked->port &&
	    kc_same16(known->addr, asked->addr))
		return 0;
	return bpf_map_update_elem(&kc_sock_v1, key, asked, BPF_ANY);
}

/*
 * Lead a TCP connection. What it asked is kept with the socket, and ends with
 * it. Of a pod, what can't be led is left to its link: it knows how to refuse,
 * and by which address of the pod its affinity goes.
 */
static __always_inline int kc_sock_lead_stream(struct bpf_sock_addr *ctx,
					       bool v6, __u32 whose)
{
	bool pod = whose == KC_NETNS_POD;
	struct kc_sock asked, chosen;
	const struct kc_svc *svc;
	struct kc_led *led;
	int error;

	kc_sock_read(ctx, v6, &asked);
	svc = kc_sock_service(&asked, IPPROTO_TCP);
	if (!svc || (pod && (!svc->count || svc->affinity))) {
		/* Whatever was asked before, now it is asked by itself. */
		bpf_sk_storage_delete(&kc_led_v1, ctx->sk);
		return 0;
	}
	error = kc_sock_choose(svc, kc_mapped(asked.addr), &chosen);
	if (error)
		return pod ? 0 : error;
	led = bpf_sk_storage_get(&kc_led_v1, ctx->sk, NULL,
				 BPF_SK_STORAGE_GET_F_CREATE);
	if (!led)
		return pod ? 0 : -ENOMEM;
	led->asked = asked;
	led->backend = chosen;
	kc_sock_write(ctx, v6, &chosen);
	return 0;
}

/*
 * Lead a call to a backend if it asks a service. A datagram goes where the
 * socket's earlier ones to this address went. Returns 0 or an error.
 */
static __always_inline int kc_sock_lead(struct bpf_sock_addr *ctx, bool v6,
					bool datagram)
{
	struct kc_sock asked, chosen;
	const struct kc_svc *svc;
	struct kc_sock_key key = {};
	struct kc_sock *known;
	__u32 whose;
	__u8 proto;
	int error;

	proto = kc_sock_proto(bpf_get_netns_cookie(ctx), ctx->protocol,
			      &whose);
	if (!proto)
		return 0;
	if (proto == IPPROTO_TCP)
		return kc_sock_lead_stream(ctx, v6, whose);
	/* Where IPv6 is connected to IPv4 the kernel itself names the peer. */
	if (datagram && !v6 && ctx->sk->dst_port == ctx->user_port &&
	    ctx->sk->dst_ip4 == ctx->user_ip4)
		return 0;
	key.cookie = bpf_get_socket_cookie(ctx);
	key.proto = proto;
	kc_sock_read(ctx, v6, &asked);
	if (datagram) {
		kc_sock_key(&key, &asked, KC_SOCK_TO);
		known = bpf_map_lookup_elem(&kc_sock_v1, &key);
		if (known) {
			chosen = *known;
			goto found;
		}
	}
	svc = kc_sock_service(&asked, proto);
	if (!svc) {
		/* Whatever was asked before, now it is asked by itself. */
		kc_sock_key(&key, &asked, KC_SOCK_FROM);
		bpf_map_delete_elem(&kc_sock_v1, &key);
		return 0;
	}
	error = kc_sock_choose(svc, kc_mapped(asked.addr), &chosen);
	if (error)
		return error;
	if (datagram && bpf_map_update_elem(&kc_sock_v1, &key, &chosen,
					    BPF_ANY))
		return -ENOMEM;
found:
	if (kc_sock_remember(&key, &chosen, &asked))
		return -ENOMEM;
	kc_sock_write(ctx, v6, &chosen);
	return 0;
}

/* What a program that may refuse a call returns. */
static __always_inline int kc_sock_answer(int error)
{
	if (error)
		bpf_set_retval(error);
	return !error;
}

/* Put the address that was asked in the place of a backend's. */
static __always_inline int kc_sock_back(struct bpf_sock_addr *ctx, bool v6)
{
	const struct kc_sock *asked = NULL;
	struct kc_sock_key key = {};
	const struct kc_led *led;
	struct kc_sock peer;
	__u32 whose;
	__u8 proto;

	proto = kc_sock_proto(bpf_get_netns_cookie(ctx), ctx->protocol,
			      &whose);
	if (!proto)
		return 1;
	kc_sock_read(ctx, v6, &peer);
	if (proto == IPPROTO_TCP) {
		led = bpf_sk_storage_get(&kc_led_v1, ctx->sk, NULL, 0);
		if (led && led->backend.port == peer.port &&
		    kc_same16(led->backend.addr, peer.addr))
			asked = &led->asked;
	} else {
		key.cookie = bpf_get_socket_cookie(ctx);
		key.proto = proto;
		kc_sock_key(&key, &peer, KC_SOCK_FROM);
		asked = bpf_map_lookup_elem(&kc_sock_v1, &key);
	}
	if (asked)
		kc_sock_write(ctx, v6, asked);
	return 1;
}

/* A connected UDP socket that is closed leaves nothing. */
static __always_inline int kc_sock_forget(struct bpf_sock *sk)
{
	struct kc_sock_key key = { .way = KC_SOCK_FROM };
	__u32 *words = (__u32 *)key.addr, whose;
	__u8 proto;

	if (sk->protocol != IPPROTO_UDP || !sk->dst_port)
		return 1;
	proto = kc_sock_proto(bpf_get_netns_cookie(sk), sk->protocol, &whose);
	if (!proto)
		return 1;
	key.cookie = bpf_get_socket_cookie(sk);
	key.proto = proto;
	key.port = sk->dst_port;
	if (sk->family == KC_AF_INET) {
		kc_map4(key.addr, sk->dst_ip4);
	} else {
		words[0] = sk->dst_ip6[0];
		words[1] = sk->dst_ip6[1];
		words[2] = sk->dst_ip6[2];
		words[3] = sk->dst_ip6[3];
	}
	bpf_map_delete_elem(&kc_sock_v1, &key);
	return 1;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Services for clients outside: what comes by an uplink to the address of a
 * service goes to a backend, and its answers come back by an uplink.
 *
 * The destination is replaced where packets come in, the source where they
 * leave, so that in between the host's own stack routes them. A backend on
 * this node sees the client itself. To one elsewhere this node sends under an
 * address and a port of its own, else the answers would not come by here.
 *
 *                    at ingress (TO)           at egress (FROM)
 *   client sends     to service -> to backend  (from client -> from node)
 *   backend sends    (to node -> to client)    from backend -> from service
 *
 * Each of these is an entry of kc_out (of flows that are not open yet, of
 * kc_out_new); those in brackets are for backends elsewhere only. A flow is
 * open once its client goes on after the answer: who sends under a false
 * address gets none. What the uplinks carry besides costs look-ups, and is
 * never dropped here.
 */
#ifndef KC_OUT_H
#define KC_OUT_H

#include "kc_frag.h"
#include "kc_icmp.h"

/* In place of endpoints, of fragments: what came in, what leaves. */
#define KC_FRAGMENTS_TO 0xffffffff
#define KC_FRAGMENTS_FROM 0xfffffffe

/* As many ports are tried. */
#define KC_PORT_TRIES 16

static __always_inline void kc_out_key(struct kc_out_key *k, __u8 kind,
				       __u8 proto, const __u8 *saddr,
				       __be16 sport, const __u8 *daddr,
				       __be16 dport)
{
	k->kind = kind;
	k->proto = proto;
	k->sport = sport;
	k->dport = dport;
	k->zero = 0;
	kc_copy16(k->saddr, saddr);
	kc_copy16(k->daddr, daddr);
}

static __always_inline bool kc_out_expired(const struct kc_out *flow,
					   __u8 proto, __u64 now)
{
	bool open = flow->flags & KC_OUT_OPEN;
	__s64 life;

	if (flow->flags & KC_OUT_CLOSING)
		life = KC_LIFE_CLOSING;
	else if (proto == IPPROTO_TCP || proto == IPPROTO_SCTP)
		life = open ? KC_LIFE_TCP : KC_LIFE_SYN;
	else
		life = open ? KC_LIFE_OTHER : KC_LIFE_OTHER_NEW;
	return kc_since(flow->last, now) > life;
}

static __always_inline bool kc_out_is(const __u8 *addr, __be16 port,
				      const __u8 *other, __be16 other_port)
{
	return port == other_port && kc_same16(addr, other);
}

/*
 * In this order: what goes from kc_out_new to kc_out is written there first, so
 * that it is found at any moment.
 */
static __always_inline struct kc_out *kc_out_find(const struct kc_out_key *k)
{
	struct kc_out *found = bpf_map_lookup_elem(&kc_out_new_v1, k);

	return found ? found : bpf_map_lookup_elem(&kc_out_v1, k);
}

static __always_inline long kc_out_write(const struct kc_out_key *k,
					 const struct kc_out *entry, bool open,
					 __u64 flags)
{
	long error;

	if (open) {
		error = bpf_map_update_elem(&kc_out_v1, k, entry, flags);
		if (!error)
			bpf_map_delete_elem(&kc_out_new_v1, k);
	} else {
		error = bpf_map_update_elem(&kc_out_new_v1, k, entry, flags);
		if (!error)
			bpf_map_delete_elem(&kc_out_v1, k);
	}
	return error;
}

static __always_inline void kc_out_end(const struct kc_out_key *k)
{
	bpf_map_delete_elem(&kc_out_v1, k);
	bpf_map_delete_elem(&kc_out_new_v1, k);
}

/*
 * The flow that a way belongs to; its key is in c->flow. NULL: it has ended,
 * or goes another way.
 */
static __always_inline struct kc_out *
kc_out_flow(struct kc_call *c, const struct kc_out_key *k,
	    const struct kc_out *way, __u64 now)
{
	bool to = k->kind == KC_OUT_TO, answer = way->flags & KC_OUT_ANSWER;
	struct kc_out *flow;

	if (to)
		kc_out_key(&c->flow, KC_OUT_TO, k->proto, way->addr, way->port,
			   way->other, way->other_port);
	else if (answer)
		kc_out_key(&c->flow, KC_OUT_TO, k->proto, k->daddr, k->dport,
			   way->other, way->other_port);
	else
		kc_out_key(&c->flow, KC_OUT_TO, k->proto, k->saddr, k->sport,
			   way->other, way->other_port);
	flow = kc_out_find(&c->flow);
	if (!flow || !(flow->flags & KC_OUT_FLOW) ||
	    kc_out_expired(flow, k->proto, now))
		return NULL;
	if (answer ? !kc_out_is(flow->addr, flow->port, k->saddr, k->sport) :
		     !kc_out_is(flow->addr, flow->port, k->daddr, k->dport))
		return NULL;
	if (to && !kc_out_is(flow->other, flow->other_port, k->daddr, k->dport))
		return NULL;
	if (!to && !answer &&
	    !kc_out_is(flow->other, flow->other_port, way->addr, way->port))
		return NULL;
	return flow;
}

static __always_inline void kc_out_touch(struct kc_out *entry, __u64 now)
{
	if (kc_since(entry->last, now) > KC_SECOND / 10)
		entry->last = now;
}

static __always_inline void kc_out_close(struct kc_out *flow, __u8 tcp_flags,
					 __u16 fin)
{
	const __u16 both = KC_OUT_FIN_CLIENT | KC_OUT_FIN_BACKEND;

	if (tcp_flags & KC_TCP_FIN)
		flow->flags |= fin;
	if (tcp_flags & KC_TCP_RST || (flow->flags & both) == both)
		flow->flags |= KC_OUT_CLOSING;
}

/* The ways of a flow besides its own. */
enum kc_out_way {
	KC_WAY_BACK = 0,	/* from backend -> from service */
	KC_WAY_THERE = 1,	/* from client -> from node */
	KC_WAY_IN = 2,		/* to node -> to client */
};

/*
 * Whether c->way is another flow's. What has ended gives its way to one that
 * begins, but for a port of the node's: there are others.
 */
static __always_inline bool kc_out_taken(struct kc_call *c,
					 const struct kc_out *found,
					 __u32 which, __u64 now)
{
	const struct kc_packet *p = &c->packet;
	const struct kc_out *flow;

	if (found->flags & KC_OUT_FLOW)
		return !kc_out_expired(found, p->proto, now);
	flow = kc_out_flow(c, &c->way, found, now);
	return flow && (which == KC_WAY_IN ||
			!(p->flags & KC_PACKET_OPENING) ||
			!(flow->flags & KC_OUT_CLOSING));
}

/*
 * Write a way of the flow of this packet, from its client to c->service, with
 * the backend in c->backend and the node in c->source. Returns 0, or that it
 * is another flow's.
 */
__noinline int kc_out_claim(struct __sk_buff *skb, __u32 which, bool open)
{
	struct kc_call *c = kc_this_call();
	__u64 now = bpf_ktime_get_coarse_ns();
	struct kc_out *e, *found;
	const struct kc_packet *p;
	bool ours = false, half;

	if (!c || !skb)
		return 1;
	p = &c->packet;
	e = &c->out_entry;
	__builtin_memset(e, 0, sizeof(*e));
	e->last = now;
	e->service = c->service.service;
	e->other_port = c->service.port;
	kc_copy16(e->other, c->service.addr);
	if (which == KC_WAY_BACK) {
		kc_out_key(&c->way, KC_OUT_FROM, p->proto, c->backend.addr,
			   c->backend.port, p->saddr, p->sport);
		e->flags = KC_OUT_ANSWER;
		e->port = c->service.port;
		kc_copy16(e->addr, c->service.addr);
	} else if (which == KC_WAY_THERE) {
		kc_out_key(&c->way, KC_OUT_FROM, p->proto, p->saddr, p->sport,
			   c->backend.addr, c->backend.port);
		e->port = c->source.port;
		kc_copy16(e->addr, c->source.addr);
	} else {
		kc_out_key(&c->way, KC_OUT_TO, p->proto, c->backend.addr,
			   c->backend.port, c->source.addr, c->source.port);
		e->flags = KC_OUT_ANSWER;
		e->port = p->sport;
		kc_copy16(e->addr, p->saddr);
	}
	half = true;
	found = bpf_map_lookup_elem(&kc_out_new_v1, &c->way);
	if (!found) {
		found = bpf_map_lookup_elem(&kc_out_v1, &c->way);
		half = false;
	}
	if (!found)
		return kc_out_write(&c->way, e, open, BPF_NOEXIST) ? 1 : 0;
	if (!(found->flags & KC_OUT_FLOW))
		ours = kc_out_is(found->other, found->other_port, e->other,
				 e->other_port) &&
		       (which != KC_WAY_IN ||
			kc_out_is(found->addr, found->port, e->addr, e->port));
	if (!ours && kc_out_taken(c, found, which, now))
		return 1;
	if (ours && half != open &&
	    kc_out_is(found->addr, found->port, e->addr, e->port)) {
		found->last = now;
		return 0;
	}
	return kc_out_write(&c->way, e, open, BPF_ANY) ? 1 : 0;
}

/* All ways of a flow; they may have been recycled, or are to be kept now. */
static __always_inline int kc_out_renew(struct __sk_buff *skb,
					struct kc_call *c, bool open)
{
	if (kc_out_claim(skb, KC_WAY_BACK, open))
		return KC_DROP_SERVICE_TUPLE;
	if (c->source.set && (kc_out_claim(skb, KC_WAY_IN, open) ||
			      kc_out_claim(skb, KC_WAY_THERE, open)))
		return KC_DROP_SERVICE_TUPLE;
	return 0;
}

static __always_inline __u32 kc_out_here(const __u8 *address)
{
	__u32 *what = bpf_map_lookup_elem(&kc_here_v1, address);

	return what ? *what : 0;
}

/* The service that a client outside asks; NULL: none. */
static __always_inline const struct kc_svc *kc_out_service(struct kc_call *c)
{
	const struct kc_packet *p = &c->packet;
	__u32 range = kc_meta(KC_META_NODE_PORTS);
	__u16 port = bpf_ntohs(p->dport);
	const struct kc_svc *svc;

	c->svc.scope = KC_SCOPE_OUTSIDE;
	kc_copy16(c->svc.addr, p->daddr);
	svc = kc_svc_find(&c->svc, p->dport, p->proto);
	if (svc || port < range >> 16 || port > (range & 0xffff) ||
	    kc_out_here(p->daddr) != KC_HERE_NODE)
		return svc;
	__builtin_memset(c->svc.addr, 0, 16);
	if (!(p->flags & KC_PACKET_V6))
		kc_map4(c->svc.addr, 0);
	return kc_svc_find(&c->svc, p->dport, p->proto);
}

static __always_inline bool kc_out_may_ask(const struct kc_packet *p,
					   __u32 service)
{
	struct kc_source_key key = { .plen = 32 + 128,
				     .service = bpf_htonl(service) };
	__u32 *allowed;

	kc_copy16(key.addr, p->saddr);
	allowed = bpf_map_lookup_elem(&kc_source_v1, &key);
	return !allowed || *allowed;
}

/* See kc_svc_choose(); the flow has the way back then. */
static __always_inline bool kc_out_usable(struct __sk_buff *skb,
					  struct kc_call *c,
					  struct kc_ct_key *k, __u64 now)
{
	(void)c;
	(void)k;
	(void)now;
	return !kc_out_claim(skb, KC_WAY_BACK, false);
}

/* Choose a port, and write the ways of a flow to a backend elsewhere. */
__noinline int kc_out_leave(struct __sk_buff *skb)
{
	struct kc_call *c = kc_this_call();
	__u32 index, first, count, i;
	const struct kc_packet *p;
	struct kc_exit *exit;
	__u16 port;

	if (!c || !skb)
		return KC_DROP_INTERNAL;
	p = &c->packet;
	index = !!(p->flags & KC_PACKET_V6);
	exit = bpf_map_lookup_elem(&kc_exit_v1, &index);
	if (!exit || kc_zero16(exit->addr))
		return KC_DROP_SOURCE_PORTS;
	first = exit->first;
	count = exit->last - first + 1;
	c->source.set = KC_NAT_SET;
	kc_copy16(c->source.addr, exit->addr);
	port = bpf_ntohs(p->sport);
	for (i = 0; i < KC_PORT_TRIES; i++) {
		/* The checksum of SCTP is over all of the packet. */
		if (p->proto == IPPROTO_SCTP ? i : i || port - first >= count)
			port = first + bpf_get_prandom_u32() % count;
		c->source.port = bpf_htons(port);
		if (!kc_out_claim(skb, KC_WAY_IN, false))
			return kc_out_claim(skb, KC_WAY_THERE, false) ?
			       KC_DROP_SERVICE_TUPLE : 0;
		if (p->proto == IPPROTO_SCTP)
			break;
	}
	return KC_DROP_SOURCE_PORTS;
}

/* A new flow, if it is one to a service. Returns 0 or the reason to drop. */
__noinline int kc_out_open(struct __sk_buff *skb)
{
	struct kc_call *c = kc_this_call();
	__u64 now = bpf_ktime_get_coarse_ns();
	const struct kc_svc *svc;
	struct kc_packet *p;
	struct kc_out *e;
	int reason;

	if (!c || !skb)
		return KC_DROP_INTERNAL;
	p = &c->packet;
	svc = kc_out_service(c);
	if (!svc)
		return 0;
	c->service.service = svc->number;
	if (!kc_out_may_ask(p, svc->number))
		return KC_DROP_SOURCE_RANGE;
	if (!svc->count)
		return svc->backends == KC_SVC_SILENT ?
		       KC_DROP_NO_LOCAL_BACKEND : KC_DROP_NO_BACKEND;
	reason = kc_svc_choose(skb, c, svc, 0, kc_out_usable, NULL, now);
	if (reason)
		return reason;
	if (!kc_out_here(c->backend.addr)) {
		reason = kc_out_leave(skb);
		if (reason)
			return reason;
	}
	e = &c->out_entry;
	__builtin_memset(e, 0, sizeof(*e));
	e->last = now;
	e->flags = KC_OUT_FLOW;
	e->service = c->service.service;
	e->port = c->backend.port;
	kc_copy16(e->addr, c->backend.addr);
	if (c->source.set) {
		e->other_port = c->source.port;
		kc_copy16(e->other, c->source.addr);
	}
	/* c->out still is what the packet was looked for by. */
	if (kc_out_write(&c->out, e, false, BPF_ANY))
		return KC_DROP_CT_FULL;
	c->backend.set = KC_NAT_SET;
	return 0;
}

/*
 * Whether a packet goes on with its flow. A SYN that repeats the first does;
 * one on an open flow only if the flow is in use: else it is a new connection
 * from a port that is used again. (The backend of an open flow answers a SYN
 * by an acknowledgement, RFC 9293 3.10.7.4, which ends it if the client knows
 * nothing of it.)
 */
static __always_inline bool kc_out_goes_on(const struct kc_out *flow,
					   const struct kc_packet *p, __u64 now)
{
	if (kc_out_expired(flow, p->proto, now))
		return false;
	if (!(p->flags & KC_PACKET_OPENING))
		return true;
	return !(flow->flags & KC_OUT_CLOSING) &&
	       kc_since(flow->last, now) <= KC_LIFE_SYN;
}

/*
 * What comes in: c->backend.set tells whether it goes elsewhere. Returns 0 or
 * the reason to drop.
 */
__noinline int kc_out_enter(struct __sk_buff *skb)
{
	struct kc_call *c = kc_this_call();
	__u64 now = bpf_ktime_get_coarse_ns();
	bool opens, open;
	struct kc_packet *p;
	struct kc_out *e;
	int reason;

	if (!c || !skb)
		return KC_DROP_INTERNAL;
	p = &c->packet;
	kc_out_key(&c->out, KC_OUT_TO, p->proto, p->saddr, p->sport, p->daddr,
		   p->dport);
	e = kc_out_find(&c->out);
	c->service.port = p->dport;
	kc_copy16(c->service.addr, p->daddr);
	if (e && !(e->flags & KC_OUT_FLOW)) {
		if (!kc_out_flow(c, &c->out, e, now))
			return 0;
		kc_out_touch(e, now);
		c->backend.set = KC_NAT_SET;
		c->backend.port = e->port;
		kc_copy16(c->backend.addr, e->addr);
		return 0;
	}
	if (!e || !kc_out_goes_on(e, p, now))
		return p->flags & (KC_PACKET_ANSWER | KC_PACKET_GROUP) ? 0 :
		       kc_out_open(skb);
	c->service.service = e->service;
	c->backend.set = KC_NAT_SET;
	c->backend.port = e->port;
	kc_copy16(c->backend.addr, e->addr);
	if (e->other_port) {
		c->source.set = KC_NAT_SET;
		c->source.port = e->other_port;
		kc_copy16(c->source.addr, e->other);
	}
	kc_out_close(e, p->tcp_flags, KC_OUT_FIN_CLIENT);
	opens = e->flags & KC_OUT_REPLIED && !(p->flags & KC_PACKET_OPENING) &&
		!(e->flags & (KC_OUT_OPEN | KC_OUT_CLOSING));
	if (!opens && kc_since(e->last, now) <= KC_SECOND / 10)
		return 0;
	open = opens || e->flags & KC_OUT_OPEN;
	/* A SYN on an open flow does not show that the flow is in use. */
	if (!(p->flags & KC_PACKET_OPENING && open))
		e->last = now;
	if (opens) {
		c->out_entry = *e;
		c->out_entry.flags |= KC_OUT_OPEN;
		/* Its memory is used again if another CPU was quicker. */
		if (!kc_out_is(c->out_entry.addr, c->out_entry.port,
			       c->backend.addr, c->backend.port) ||
		    kc_out_write(&c->out, &c->out_entry, true, BPF_ANY))
			return 0;
	}
	reason = kc_out_renew(skb, c, open);
	if (reason)
		kc_out_end(&c->out);
	return reason;
}

/* What leaves: c->source.set tells whether it comes from elsewhere. */
__noinline int kc_out_exit(struct __sk_buff *skb)
{
	struct kc_call *c = kc_this_call();
	__u64 now = bpf_ktime_get_coarse_ns();
	struct kc_out *way, *flow;
	const struct kc_packet *p;

	if (!c || !skb)
		return 0;
	p = &c->packet;
	kc_out_key(&c->out, KC_OUT_FROM, p->proto, p->saddr, p->sport,
		   p->daddr, p->dport);
	way = kc_out_find(&c->out);
	if (!way)
		return 0;
	flow = kc_out_flow(c, &c->out, way, now);
	if (!flow)
		return 0;
	kc_out_touch(way, now);
	c->source.set = KC_NAT_SET;
	c->source.port = way->port;
	kc_copy16(c->source.addr, way->addr);
	if (!(way->flags & KC_OUT_ANSWER))
		return 0;
	kc_out_close(flow, p->tcp_flags, KC_OUT_FIN_BACKEND);
	if (!(flow->flags & KC_OUT_REPLIED) && !(p->tcp_flags & KC_TCP_RST))
		flow->flags |= KC_OUT_REPLIED;
	kc_out_touch(flow, now);
	return 0;
}

/*
 * An ICMP error about a packet that went the other way: what it quotes is
 * translated like an answer. Not a redirect: it is about the way to the
 * backend. Returns 0 or the reason to drop.
 */
__noinline int kc_out_error(struct __sk_buff *skb, bool from)
{
	struct kc_call *c = kc_this_call();
	__u64 now = bpf_ktime_get_coarse_ns();
	const struct kc_packet *p, *quoted;
	struct kc_nat *to;
	struct kc_out *e;

	if (!c || !skb)
		return KC_DROP_INTERNAL;
	p = &c->packet;
	quoted = &c->quoted;
	if (p->frag ||
	    (p->proto == IPPROTO_ICMP && p->icmp_type == ICMP_REDIRECT) ||
	    kc_parse_quoted(skb) || !kc_has_service(quoted))
		return 0;
	kc_out_key(&c->out, from ? KC_OUT_FROM : KC_OUT_TO, quoted->proto,
		   quoted->daddr, quoted->dport, quoted->saddr, quoted->sport);
	e = kc_out_find(&c->out);
	if (!e || (e->flags & KC_OUT_FLOW ?
		   kc_out_expired(e, quoted->proto, now) :
		   !kc_out_flow(c, &c->out, e, now)))
		return 0;
	to = from ? &c->source : &c->backend;
	to->port = e->port;
	kc_copy16(to->addr, e->addr);
	return kc_rewrite_error(skb, from);
}

/* Whether this is a packet that may be of a service. */
static __always_inline bool kc_out_begin(struct __sk_buff *skb,
					 struct kc_call *c, __u8 direction)
{
	struct kc_packet *p = &c->packet;

	kc_end_set(&c->near, 0, 0, direction);
	c->service.service = 0;
	c->backend.set = 0;
	c->source.set = 0;
	__builtin_memset(c->backend.mac, 0, 6);
	if (kc_parse(skb) || p->ethertype == bpf_htons(ETH_P_ARP))
		return false;
	/* Of the first fragment it is remembered once it is a service's. */
	if (p->frag & KC_IP_OFFSET && kc_fragment(
		skb, direction == KC_INGRESS ? KC_FRAGMENTS_TO :
					       KC_FRAGMENTS_FROM))
		return false;
	return p->flags & KC_PACKET_ERROR || kc_has_service(p);
}

/* Replace what c->backend (c->source) says, and remember it for fragments. */
static __always_inline int kc_out_replace(struct __sk_buff *skb,
					  struct kc_call *c, bool from)
{
	const struct kc_packet *p = &c->packet;
	int reason = 0;

	if (p->frag && !(p->frag & KC_IP_OFFSET))
		reason = kc_fragment(skb, from ? KC_FRAGMENTS_FROM :
						 KC_FRAGMENTS_TO);
	return reason ? reason : kc_rewrite(skb, from);
}

#endif

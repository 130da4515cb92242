/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What programs and agent share: maps, keys, values, numbers.
 *
 * Maps are pinned with the version of their layout in the name: a change of a
 * layout is a new map. datapath/bpf/layout.py mirrors this file; a unit test
 * compares both through BTF. Numbers of reasons never change.
 *
 * Addresses are 16 bytes everywhere, IPv4 as ::ffff:a.b.c.d. Numbers are in
 * the host's byte order unless their type is __be*.
 */
#ifndef KC_MAPS_H
#define KC_MAPS_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#define KC_ADDRS 8		/* addresses of an endpoint */
#define KC_GATEWAYS 2
#define KC_WORDS 4		/* of 64 bits in a page */
#define KC_PAGES 16

/* Rulesets and classes with a fixed meaning. */
enum kc_ruleset {
	KC_RULESET_NONE = 0,	/* not ready: drop */
	KC_RULESET_DENY = 1,
	KC_RULESET_ALLOW = 2,
};

enum kc_entity {
	KC_ENTITY_POD = 1,
	KC_ENTITY_HOST = 2,	/* this node */
	KC_ENTITY_REMOTE_NODE = 3,
	KC_ENTITY_WORLD = 4,
};

enum kc_verdict {
	KC_VERDICT_ALLOW = 1,
	KC_VERDICT_DENY = 2,
	KC_VERDICT_PASS = 3,	/* go on with the next tier */
};

enum kc_direction {
	KC_INGRESS = 0,		/* as the endpoint sees it */
	KC_EGRESS = 1,
};

enum kc_reason {
	KC_ALLOWED = 0,
	KC_DROP_NO_ENDPOINT = 1,	/* the link belongs to no endpoint */
	KC_DROP_NOT_READY = 2,		/* the endpoint has no rulesets yet */
	KC_DROP_POLICY = 3,		/* no rule allows it */
	KC_DROP_POLICY_DENY = 4,	/* a rule denies it */
	KC_DROP_POLICY_CHANGED = 5,	/* an open flow that is denied now */
	KC_DROP_NO_CONNECTION = 6,	/* belongs to no open connection */
	KC_DROP_CT_FULL = 7,		/* no room for the connection */
	KC_DROP_SPOOF_MAC = 8,
	KC_DROP_SPOOF_IP = 9,
	KC_DROP_SPOOF_ARP = 10,
	KC_DROP_SPOOF_ND = 11,
	KC_DROP_VLAN = 12,		/* a tagged frame */
	KC_DROP_ETHERTYPE = 13,		/* neither IP nor ARP */
	KC_DROP_TRUNCATED = 14,		/* headers cut short */
	KC_DROP_MALFORMED = 15,
	KC_DROP_EXTENSIONS = 16,	/* more than six extension headers */
	KC_DROP_FRAGMENT = 17,		/* its first fragment was not seen */
	KC_DROP_FRAGMENT_OVERLAP = 18,	/* it would overwrite TCP's header */
	KC_DROP_ND = 19,		/* hop limit or type of ND or MLD */
	KC_DROP_NOT_OURS = 20,		/* addressed to somebody else */
	KC_DROP_ICMP_UNRELATED = 21,	/* an ICMP error to no connection */
	KC_DROP_TABLES = 22,		/* an entry that must be there is not */
	KC_DROP_HOST_FRAME = 23,	/* the host sent what is not IP */
	KC_DROP_CT_QUOTA = 24,		/* the endpoint has too many of them */
	KC_DROP_SOURCE_ROUTE = 25,	/* the sender names routers on the way */
	KC_DROP_INTERNAL = 26,		/* a helper of the kernel failed */
	KC_DROP_NO_BACKEND = 27,	/* the service has none that is ready */
	KC_DROP_SERVICE_TUPLE = 28,	/* it would be taken for another flow */
	KC_DROP_SOURCE_RANGE = 29,	/* the service is not for this client */
	KC_DROP_NO_LOCAL_BACKEND = 30,	/* and it is for local ones only */
	KC_DROP_SOURCE_PORTS = 31,	/* no address or port to send it from */
	KC_REASONS = 64,
};

/* kc_meta: what the agent keeps for itself and for the programs. */
enum kc_meta_index {
	KC_META_EPOCH = 0,	/* policy epoch: + 1 for each applied change */
	KC_META_NEXT_ENDPOINT = 1,
	KC_META_NEXT_CLASS = 2,
	KC_META_NEXT_RULESET = 3,
	KC_META_NEXT_SPACE = 4,
	KC_META_NEXT_NETWORK = 5,
	KC_META_CT_QUOTA = 6,	/* entries of kc_ct an endpoint may have; 0: any */
	KC_META_EVENT_RATE = 7,	/* a second, CPU and endpoint; 0: default */
	KC_META_NEXT_BACKENDS = 8,
	KC_META_NODE_PORTS = 9,	/* first << 16 | last; 0: none */
	/* 10 was the cookie of the host's network namespace. */
	KC_META_MAX = 16,
};

enum kc_endpoint_flag {
	KC_ENDPOINT_FASTPATH = 1 << 0,	/* Neutron has nothing to enforce */
};

struct kc_endpoint {
	__u32 space4;
	__u32 space6;
	__u32 in_ruleset;
	__u32 out_ruleset;
	__u32 kc_ifindex;
	__u32 kq_ifindex;
	__u32 network;
	__u16 flags;		/* enum kc_endpoint_flag */
	__u8 mac[6];
	__u8 gateway_macs[KC_GATEWAYS][6];	/* zero: none */
	__u8 reserved[16];
	__u8 addrs[KC_ADDRS][16];	/* zero: none */
};

struct kc_addr_key {
	__u32 space;
	__u8 addr[16];
};

struct kc_cidr_key {
	__u32 plen;		/* 32 + prefix length of the 16 bytes */
	__be32 space;
	__u8 addr[16];
};

struct kc_peer {
	__u32 class;
	__u8 entity;		/* enum kc_entity */
	__u8 pad[3];
};

struct kc_local {
	__u32 endpoint;
	__u32 kc_ifindex;
	__u8 mac[6];
	__u8 pad[2];
};

struct kc_rs_peer_key {
	__u32 ruleset;
	__u32 class;
	__u32 page;
};

struct kc_rs_port_key {
	__u32 plen;		/* 40 any, 48 protocol, 48 + n port */
	__be32 ruleset;
	__u8 page;
	__u8 proto;
	__be16 port;		/* ICMP: type << 8 | code */
};

struct kc_bits {
	__u64 w[KC_WORDS];
	__u16 pages;		/* bit p: page p of this row is not empty */
	__u16 pad[3];
};

struct kc_rs_group_key {
	__u32 ruleset;
	__u32 bit;
};

struct kc_rs_group {
	__u8 verdict;		/* enum kc_verdict */
	__u8 flags;
	__u16 next_tier;	/* first bit of the next tier, for PASS */
	__u32 l7set;
	__u32 rule_id;
};

/* One entry for both directions, as the endpoint sees it. */
struct kc_ct_key {
	__u32 endpoint;
	__u8 proto;
	__u8 local;		/* index in addrs of the endpoint */
	__be16 lport;		/* ICMP echo: identifier */
	__be16 rport;		/* ICMP echo: enum kc_echo */
	__u16 zero;
	__u8 raddr[16];
};

/* Echoes that the pod asks and that it is asked never share an entry. */
enum kc_echo {
	KC_ECHO_OURS = 0xfffe,
	KC_ECHO_THEIRS = 0xffff,
};

enum kc_ct_flag {
	KC_CT_HOST = 1 << 0,		/* opened through the host's stack */
	KC_CT_OWN = 1 << 1,		/* by the node itself: always allowed */
	KC_CT_AS_WORLD = 1 << 2,	/* forwarded under the node's address */
	KC_CT_TOMBSTONE = 1 << 3,	/* denied after it was open */
	KC_CT_REPLIED = 1 << 4,
	KC_CT_CLOSING = 1 << 5,		/* RST, or FIN both ways */
	KC_CT_FIN_IN = 1 << 6,
	KC_CT_FIN_OUT = 1 << 7,
	KC_CT_ALIAS = 1 << 8,		/* leads from a service to its backend */
	KC_CT_HAIRPIN = 1 << 9,		/* to itself by a service: not judged */
	KC_CT_OPEN = 1 << 10,		/* in kc_ct_new: it went to kc_ct */
};

/*
 * A flow to a service is two entries: the one of its backend, which is judged
 * and has the address that the pod knows in nat, and an alias with the address
 * of the service in its key, which has the backend in nat.
 */
struct kc_ct {
	__u64 last;		/* ns of the monotonic clock, to 100 ms */
	__u64 bytes[2];		/* by enum kc_direction */
	__u32 packets[2];
	__u32 epoch;		/* policy epoch it was judged under */
	__u32 rule_id;
	__u16 flags;		/* enum kc_ct_flag */
	__u8 direction;		/* of the opening packet */
	__u8 pad;
	__be16 asked_port;	/* that of nat if nothing is replaced; or 0 */
	__be16 nat_port;	/* 0: no service */
	__u8 nat[16];
};

_Static_assert(sizeof(struct kc_ct) == 64, "a connection is one cache line");
_Static_assert(sizeof(struct kc_ct_key) == 28,
	       "no holes in a key");

/* Who asks. */
enum kc_scope {
	KC_SCOPE_INSIDE = 0,	/* a pod, or the node itself */
	KC_SCOPE_OUTSIDE = 1,	/* what comes in on an uplink */
};

/*
 * An address of a service; a port of 0 is every port that has no entry. With
 * KC_PROTO_NODE, which says that an address is a node's, there is no service.
 * Both are inside only.
 */
struct kc_svc_key {
	__u32 scope;		/* of enum kc_scope */
	__u8 addr[16];		/* zero: of every node */
	__be16 port;
	__u8 proto;
	__u8 pad;
};

struct kc_svc {
	__u32 backends;		/* the first part of the key of kc_backend */
	__u32 count;		/* 0: none is ready */
	__u32 number;		/* of the service, as long as it lives */
	__u32 affinity;		/* seconds that a client keeps its backend; 0 */
};

/* kc_svc.backends of what is dropped without an answer; its count is 0. */
#define KC_SVC_SILENT 0xffffffff

struct kc_backend_key {
	__u32 backends;
	__u32 index;		/* 0 to count - 1 */
};

struct kc_backend {
	__u8 addr[16];
	__be16 port;
	__u8 mac[6];		/* zero: by way of a router */
	__u32 network;		/* in which it has that MAC address */
};

/*
 * Who outside may ask a service: 1 or 0; what has no match may. Of a service
 * with ranges every address has one.
 */
struct kc_source_key {
	__u32 plen;		/* 32 + that of addr */
	__be32 service;		/* kc_svc.number */
	__u8 addr[16];
};

/* Which backend a client has. */
struct kc_affinity_key {
	__u32 service;		/* kc_svc.number */
	__u8 client[16];
};

struct kc_affinity {
	__u64 last;		/* ns of the monotonic clock */
	__u8 addr[16];
	__be16 port;
	__u8 mac[6];		/* zero: by way of a router */
};

/* What an address is on this node. */
struct kc_here_key {
	__u8 addr[16];
};

enum kc_here {
	KC_HERE_NODE = 1,	/* the node's own */
	KC_HERE_POD = 2,	/* of a pod of this node */
};

/* By which the node sends to backends elsewhere; of IPv4, of IPv6. */
struct kc_exit {
	__u8 addr[16];		/* zero: it has none of this family */
	__u16 first;		/* ports, to the last one */
	__u16 last;
	__u32 pad;
};

enum kc_out_kind {
	KC_OUT_TO = 0,		/* at ingress, in place of the destination */
	KC_OUT_FROM = 1,	/* at egress, in place of the source */
};

/* A packet on an uplink. */
struct kc_out_key {
	__u8 kind;		/* enum kc_out_kind */
	__u8 proto;
	__be16 sport;
	__be16 dport;
	__u16 zero;
	__u8 saddr[16];
	__u8 daddr[16];
};

enum kc_out_flag {
	KC_OUT_FLOW = 1 << 0,	/* the flow itself */
	KC_OUT_ANSWER = 1 << 1,	/* a way of what the backend sends */
	KC_OUT_REPLIED = 1 << 2,
	KC_OUT_CLOSING = 1 << 3,	/* RST, or FIN both ways */
	KC_OUT_FIN_CLIENT = 1 << 4,
	KC_OUT_FIN_BACKEND = 1 << 5,
	KC_OUT_OPEN = 1 << 6,	/* the client went on after the answer */
};

/*
 * A flow from outside to a service is one entry for what the client sends
 * where it comes in, which tells all that is known of the flow, and one for
 * each further way of its packets, which counts only with it. Those of open
 * flows are in kc_out, of others in kc_out_new: what a flood of requests pushes
 * out are requests.
 */
struct kc_out {
	__u64 last;		/* ns of the monotonic clock, to 100 ms */
	__u8 addr[16];		/* what takes the place */
	__be16 port;
	__u16 flags;		/* enum kc_out_flag */
	__u32 service;		/* kc_svc.number */
	__u8 other[16];		/* flow: what the backend knows the client */
	__be16 other_port;	/* by; 0: by its own. Way: the service. */
	__u16 pad[3];
};

_Static_assert(sizeof(struct kc_out_key) == 40, "no holes in a key");
_Static_assert(sizeof(struct kc_out) == 56, "nor in its value");

/* Whose the sockets of a network namespace are. */
enum kc_netns {
	KC_NETNS_NODE = 1,	/* the node's own: all that they ask is led */
	KC_NETNS_POD = 2,	/* TCP is; the rest is served on its link */
};

enum kc_sock_way {
	KC_SOCK_FROM = 0,	/* from a backend to what was asked */
	KC_SOCK_TO = 1,		/* from a service to the backend of datagrams */
};

/* What a socket of the host asked, and was led to. */
struct kc_sock_key {
	__u64 cookie;		/* of the socket */
	__u8 addr[16];
	__be16 port;
	__u8 proto;
	__u8 way;		/* enum kc_sock_way */
	__u8 pad[4];
};

struct kc_sock {
	__u8 addr[16] __attribute__((aligned(8)));
	__be16 port;
	__u8 pad[6];
};

/* What a TCP socket asked, and was led to; kept with the socket. */
struct kc_led {
	struct kc_sock asked;
	struct kc_sock backend;
};

/* A datagram in fragments, by what the receiver puts it together by. */
struct kc_frag_key {
	__u32 endpoint;
	__u32 id;
	__u8 saddr[16];
	__u8 daddr[16];
	__u8 proto;		/* IPv6: 0 */
	__u8 pad[3];
};

/* What only its first fragment tells. */
struct kc_frag {
	__u64 time;		/* ns of the monotonic clock */
	__be16 sport;
	__be16 dport;
	__be16 port;
	__u8 proto;
	__u8 flags;		/* of enum kc_packet_flag */
};

struct kc_event {
	__u64 time;		/* ns of the monotonic clock */
	__u32 endpoint;
	__u32 ruleset;
	__u32 bit;		/* of the deciding group; ~0: none */
	__u32 length;		/* bytes of the packet */
	__u8 saddr[16];
	__u8 daddr[16];
	__be16 sport;
	__be16 dport;
	__be16 ethertype;
	__u8 proto;
	__u8 direction;
	__u8 reason;		/* KC_ALLOWED: a first verdict */
	__u8 pad[3];
	__u32 service;		/* kc_svc.number; 0: none */
};

/* Of an endpoint's drops and first verdicts; several endpoints may share. */
#define KC_RATES 256

struct kc_rate {
	__u64 second;
	__u64 count;
};

#define KC_MAP(map, kind, k, v, n, f)			\
	struct {					\
		__uint(type, kind);			\
		__type(key, k);				\
		__type(value, v);			\
		__uint(max_entries, n);			\
		__uint(map_flags, f);			\
	} map SEC(".maps")

KC_MAP(kc_meta_v1, BPF_MAP_TYPE_ARRAY, __u32, __u64, KC_META_MAX, 0);
KC_MAP(kc_if_v1, BPF_MAP_TYPE_HASH, __u32, __u32, 8192, BPF_F_NO_PREALLOC);
KC_MAP(kc_endpoint_v1, BPF_MAP_TYPE_HASH, __u32, struct kc_endpoint, 4096,
       BPF_F_NO_PREALLOC);
KC_MAP(kc_local_v1, BPF_MAP_TYPE_HASH, struct kc_addr_key, struct kc_local,
       65536, BPF_F_NO_PREALLOC);
KC_MAP(kc_addr_v1, BPF_MAP_TYPE_HASH, struct kc_addr_key, struct kc_peer,
       262144, BPF_F_NO_PREALLOC);
KC_MAP(kc_cidr_v1, BPF_MAP_TYPE_LPM_TRIE, struct kc_cidr_key, struct kc_peer,
       32768, BPF_F_NO_PREALLOC);
KC_MAP(kc_rs_peer_v1, BPF_MAP_TYPE_HASH, struct kc_rs_peer_key,
       struct kc_bits, 524288, BPF_F_NO_PREALLOC);
KC_MAP(kc_rs_port_v1, BPF_MAP_TYPE_LPM_TRIE, struct kc_rs_port_key,
       struct kc_bits, 131072, BPF_F_NO_PREALLOC);
KC_MAP(kc_rs_group_v1, BPF_MAP_TYPE_HASH, struct kc_rs_group_key,
       struct kc_rs_group, 524288, BPF_F_NO_PREALLOC);
KC_MAP(kc_ct_v1, BPF_MAP_TYPE_HASH, struct kc_ct_key, struct kc_ct, 262144,
       BPF_F_NO_PREALLOC);
KC_MAP(kc_ct_new_v1, BPF_MAP_TYPE_LRU_HASH, struct kc_ct_key, struct kc_ct,
       65536, 0);
KC_MAP(kc_ct_count_v1, BPF_MAP_TYPE_HASH, __u32, __u64, 4096,
       BPF_F_NO_PREALLOC);
KC_MAP(kc_frag_v1, BPF_MAP_TYPE_LRU_HASH, struct kc_frag_key, struct kc_frag,
       8192, 0);
KC_MAP(kc_svc_v1, BPF_MAP_TYPE_HASH, struct kc_svc_key, struct kc_svc, 262144,
       BPF_F_NO_PREALLOC);
KC_MAP(kc_backend_v1, BPF_MAP_TYPE_HASH, struct kc_backend_key,
       struct kc_backend, 524288, BPF_F_NO_PREALLOC);
KC_MAP(kc_source_v1, BPF_MAP_TYPE_LPM_TRIE, struct kc_source_key, __u32,
       65536, BPF_F_NO_PREALLOC);
KC_MAP(kc_affinity_v1, BPF_MAP_TYPE_LRU_HASH, struct kc_affinity_key,
       struct kc_affinity, 65536, 0);
KC_MAP(kc_here_v1, BPF_MAP_TYPE_HASH, struct kc_here_key, __u32, 65536,
       BPF_F_NO_PREALLOC);
KC_MAP(kc_exit_v1, BPF_MAP_TYPE_ARRAY, __u32, struct kc_exit, 2, 0);
KC_MAP(kc_out_v1, BPF_MAP_TYPE_LRU_HASH, struct kc_out_key, struct kc_out,
       262144, 0);
KC_MAP(kc_out_new_v1, BPF_MAP_TYPE_LRU_HASH, struct kc_out_key, struct kc_out,
       65536, 0);
KC_MAP(kc_sock_v1, BPF_MAP_TYPE_LRU_HASH, struct kc_sock_key, struct kc_sock,
       65536, 0);
KC_MAP(kc_netns_v1, BPF_MAP_TYPE_HASH, __u64, __u32, 8192,
       BPF_F_NO_PREALLOC);
KC_MAP(kc_drops_v1, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, KC_REASONS, 0);
KC_MAP(kc_rate_v1, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct kc_rate, KC_RATES,
       0);

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__type(key, int);
	__type(value, struct kc_led);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} kc_led_v1 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} kc_events_v1 SEC(".maps");

/* Puts into BTF what is in no map, for layout.py to be compared with. */
struct kc_types {
	struct kc_event event;
	enum kc_ruleset ruleset;
	enum kc_entity entity;
	enum kc_verdict verdict;
	enum kc_direction direction;
	enum kc_reason reason;
	enum kc_meta_index meta;
	enum kc_endpoint_flag endpoint_flag;
	enum kc_echo echo;
	enum kc_scope scope;
	enum kc_ct_flag ct_flag;
	enum kc_here here;
	enum kc_out_kind out_kind;
	enum kc_out_flag out_flag;
	enum kc_sock_way sock_way;
	enum kc_netns netns;
};

#endif

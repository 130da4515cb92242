/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What a program knows of one packet while it runs. */
#ifndef KC_PACKET_H
#define KC_PACKET_H

#include "kc_maps.h"

#define KC_SECOND 1000000000ll
#define KC_NO_BIT 0xffffffff

#define KC_IP_MF 0x2000
#define KC_IP_OFFSET 0x1fff

enum kc_packet_flag {
	KC_PACKET_OPENING = 1 << 0,	/* asks for a new connection */
	KC_PACKET_ANSWER = 1 << 1,	/* only ever belongs to one that is open */
	KC_PACKET_ERROR = 1 << 2,	/* an ICMP error */
	KC_PACKET_ND = 1 << 3,		/* ND or MLD */
	KC_PACKET_GROUP = 1 << 4,	/* to a group or to all */
	KC_PACKET_V6 = 1 << 5,
	KC_PACKET_ECHO = 1 << 6,	/* an ICMP echo, asked or answered */
};

/*
 * The ports are those of the connection: of an ICMP echo both are its
 * identifier, of other ICMP dport is type << 8 | code. port is what policy
 * asks for: the destination port, or type << 8 | code.
 */
struct kc_packet {
	__u8 saddr[16] __attribute__((aligned(8)));
	__u8 daddr[16];
	__be16 sport;
	__be16 dport;
	__be16 port;
	__be16 ethertype;
	__u32 l4;		/* offset of the transport header */
	__u32 end;		/* offset of the end of the IP packet */
	__u32 length;		/* of the frame */
	__u32 frag_id;
	__u16 frag;		/* KC_IP_MF and the offset in 8 bytes */
	__u8 proto;
	__u8 flags;		/* enum kc_packet_flag */
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 hop_limit;
	__u8 smac[6];
	__u8 dmac[6];
};

enum kc_action {
	KC_DO_NOTHING = 0,
	KC_DO_OPEN = 1,		/* a new entry in kc_ct_new */
	KC_DO_REOPEN = 2,	/* the same, and an old one in kc_ct goes */
	KC_DO_PROMOTE = 3,	/* it was answered: from kc_ct_new to kc_ct */
	KC_DO_DEMOTE = 4,	/* it was closed: back to kc_ct_new */
};

/* One end of a packet: the endpoint that judges it, and what came of it. */
struct kc_end {
	__u32 number;
	__u32 epoch;		/* read before anything else */
	__u32 space;
	__u32 ruleset;		/* of this direction */
	__u32 other_ruleset;	/* of the other one */
	__u8 direction;		/* enum kc_direction */
	__u8 local;		/* index of its address */
	__u16 ct_flags;		/* of a connection that this packet opens */
	/* What came of it. */
	__u32 judged_by;	/* ruleset */
	__u32 bit;		/* of the group that decided */
	__u16 flags;		/* of the connection */
	__u16 action;		/* enum kc_action: what is left to write */
	/* Of what service the peer is a backend; 0: of none. */
	__be16 asked_port;
	__u16 pad;
	__u8 asked[16];
};

enum kc_nat_flag {
	KC_NAT_SET = 1 << 0,
	KC_NAT_HAIRPIN = 1 << 1,	/* it is the sender itself */
};

/* An address that takes the place of another one. */
struct kc_nat {
	__u8 addr[16] __attribute__((aligned(8)));
	__be16 port;
	__u8 mac[6];		/* zero: that of the frame stays */
	__u32 service;		/* its number */
	__u32 set;		/* enum kc_nat_flag; 0: there is none */
};

/* What kc_policy() is asked, and its answer. */
struct kc_query {
	__u8 raddr[16] __attribute__((aligned(8)));
	__u32 space;
	__u32 ruleset;
	__be16 port;
	__u8 proto;
	__u8 has_port;
	__u8 as_world;		/* whatever the address is */
	__u8 entity;		/* answer: of the peer */
	__u16 pad;
	__u32 bit;		/* answer: of the group that decided */
};

/* Not on the stack: the verifier follows every value that is there. */
struct kc_call {
	struct kc_packet packet;
	struct kc_packet quoted;	/* by an ICMP error */
	struct kc_end near;	/* of the link that it came from or goes to */
	struct kc_end far;	/* the receiver of a local hop */
	struct kc_query query;
	struct kc_nat service;	/* that near sends to, as near knows it */
	struct kc_nat backend;	/* what takes its place */
	struct kc_nat source;	/* what the receiver knows the sender by */
	/* Keys and values in the making. */
	struct kc_ct entry;
	struct kc_ct_key alias;
	struct kc_svc_key svc;
	struct kc_affinity_key client;
	struct kc_affinity affinity;
	struct kc_out_key out __attribute__((aligned(8)));
	struct kc_out_key way __attribute__((aligned(8)));
	struct kc_out_key flow __attribute__((aligned(8)));
	struct kc_out out_entry;
	__u64 peers[KC_WORDS];	/* rows that kc_policy() looked up */
	__u64 ports[KC_WORDS];
	__u32 fresh;		/* there is no entry of the way to the backend */
	__u32 option;		/* offset in options */
	__u8 options[40];
	__u8 reply[96];		/* a packet in the making */
};

/*
 * Programs don't interrupt each other on a CPU: they run in softirq. What is
 * not inlined is a global function that finds its arguments here: the verifier
 * walks it once, not once for each way that leads to it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct kc_call);
	__uint(max_entries, 1);
} kc_scratch SEC(".maps");

static __always_inline struct kc_call *kc_this_call(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&kc_scratch, &zero);
}

/* Read again from memory: the verifier is to forget what it knew of it. */
#define kc_forget() asm volatile("" ::: "memory")

/* Which end a global function works on: they get no pointers. */
static __always_inline struct kc_end *kc_this_end(struct kc_call *c, bool far)
{
	return far ? &c->far : &c->near;
}

static __always_inline __u64 kc_meta(__u32 index)
{
	__u64 *value = bpf_map_lookup_elem(&kc_meta_v1, &index);

	return value ? *value : 0;
}

/* Nanoseconds since then; negative if another CPU's clock was ahead. */
static __always_inline __s64 kc_since(__u64 then, __u64 now)
{
	return now - then;
}

static __always_inline bool kc_same16(const __u8 *a, const __u8 *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return x[0] == y[0] && x[1] == y[1];
}

static __always_inline bool kc_zero16(const __u8 *address)
{
	const __u64 *x = (const __u64 *)address;

	return !(x[0] | x[1]);
}

/* Keys on the stack have addresses at multiples of 4. */
static __always_inline void kc_copy16(__u8 *to, const __u8 *from)
{
	const __u32 *x = (const __u32 *)from;
	__u32 *y = (__u32 *)to;

	y[0] = x[0];
	y[1] = x[1];
	y[2] = x[2];
	y[3] = x[3];
}

static __always_inline bool kc_same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

static __always_inline bool kc_zero_mac(const __u8 *mac)
{
	const __u16 *x = (const __u16 *)mac;

	return !(x[0] | x[1] | x[2]);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The baseline of the datapath benchmark: the same way without judging.
 * Packets take the same hooks, links and redirects as with the programs of
 * the datapath; what is left out is all that those decide.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);	/* ifindex of a kc or kq */
	__type(value, __u32);	/* of the other one */
	__uint(max_entries, 64);
} forward_if SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __be32);	/* address of a pod of this node */
	__type(value, __u32);	/* ifindex of its kc */
	__uint(max_entries, 64);
} forward_local SEC(".maps");

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, *to;
	struct iphdr ip;

	if (skb->protocol == bpf_htons(ETH_P_IP) &&
	    !bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip))) {
		to = bpf_map_lookup_elem(&forward_local, &ip.daddr);
		if (to) {
			bpf_skb_change_type(skb, 0);
			return bpf_redirect_peer(*to, 0);
		}
	}
	to = bpf_map_lookup_elem(&forward_if, &ifindex);
	return to ? bpf_redirect(*to, 0) : TC_ACT_SHOT;
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	__u32 *to = bpf_map_lookup_elem(&forward_if, &ifindex);

	if (!to)
		return TC_ACT_SHOT;
	bpf_skb_change_type(skb, 0);
	return bpf_redirect_peer(*to, 0);
}

SEC("tc")
int from_host(struct __sk_buff *skb __attribute__((unused)))
{
	return TC_ACT_OK;
}

char _license[] SEC("license") = "GPL";

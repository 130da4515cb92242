/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A load for benchmarks: what netperf calls TCP_RR, TCP_CRR and TCP_STREAM.
 *
 *   loadgen server PORT                         until it is killed
 *   loadgen rr|crr|stream ADDRESS PORT SECONDS  prints one number
 *   loadgen rr|crr ADDRESS PORT SECONDS work    prints how many transactions
 *                                               in how much time of its CPU
 *
 * rr: transactions a second of one byte each way on one connection; crr: the
 * same with a connection each; stream: Mbit/s as the receiver counted.
 *
 * Build: gcc -Wall -Wextra -Werror -O2 -static -o loadgen loadgen.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in6 peer;
static long transactions;

static void die(const char *what)
{
	fprintf(stderr, "loadgen: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double read_clock(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static double now(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

/* What is known of a connection of the server. */
static struct {
	char op;		/* the client's first byte; 's' is a stream */
	uint64_t total;
} served[1 << 20];

/* One read of a connection that has something to read. */
static void serve(int fd)
{
	static char buffer[1 << 17];
	ssize_t n = recv(fd, buffer, served[fd].op == 's' ? sizeof(buffer) : 1,
			 MSG_DONTWAIT);

	if (n > 0) {
		if (!served[fd].op)
			served[fd].op = buffer[0];
		served[fd].total += n;
		if (served[fd].op == 's' || send(fd, buffer, 1, MSG_NOSIGNAL) == 1)
			return;
	} else if (!n && served[fd].op == 's') {
		send(fd, &served[fd].total, sizeof(served[fd].total),
		     MSG_NOSIGNAL);
	} else if (n < 0 && errno == EAGAIN) {
		return;
	}
	close(fd);
}

/* All connections in one thread: to make one for each is more than to serve. */
static void server(int port)
{
	struct sockaddr_in6 any = {
		.sin6_family = AF_INET6,
		.sin6_port = htons(port),
	};
	int fd = socket(AF_INET6, SOCK_STREAM, 0), one = 1, ready = epoll_create1(0);
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd }, found[64];

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&any, sizeof(any)) || listen(fd, 1024) ||
	    epoll_ctl(ready, EPOLL_CTL_ADD, fd, &event))
		die("listen");
	puts("ready");
	fflush(stdout);
	for (;;) {
		int count = epoll_wait(ready, found, 64, -1);

		for (int i = 0; i < count; i++) {
			if (found[i].data.fd != fd) {
				serve(found[i].data.fd);
				continue;
			}
			event.data.fd = accept(fd, NULL, NULL);
			if (event.data.fd < 0)
				continue;
			memset(&served[event.data.fd], 0, sizeof(served[0]));
			setsockopt(event.data.fd, IPPROTO_TCP, TCP_NODELAY, &one,
				   sizeof(one));
			if (epoll_ctl(ready, EPOLL_CTL_ADD, event.data.fd, &event))
				die("epoll");
		}
	}
}

static int dial(void)
{
	struct timeval limit = { .tv_sec = 5 };
	int fd = socket(AF_INET6, SOCK_STREAM, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, (struct sockaddr *)&peer, sizeof(peer)))
		die("connect");
	return fd;
}

static void transact(int fd)
{
	char op = 'r';

	if (send(fd, &op, 1, 0) != 1 || recv(fd, &op, 1, 0) != 1)
		die("transaction");
}

static double rr(double seconds)
{
	double start, t;
	int fd = dial();

	transact(fd);
	start = now();
	do {
		for (int i = 0; i < 32; i++, transactions++)
			transact(fd);
		t = now() - start;
	} while (t < seconds);
	return transactions / t;
}

static double crr(double seconds)
{
	/* A reset instead of FIN: no TIME_WAIT, so ports don't run out. */
	struct linger reset = { .l_onoff = 1 };
	double start = now(), t;
	int fd;

	do {
		fd = dial();
		transact(fd);
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(fd);
		transactions++;
		t = now() - start;
	} while (t < seconds);
	return transactions / t;
}

static double stream(double seconds)
{
	static char buffer[1 << 17];
	double start = now();
	uint64_t total = 0;
	int fd = dial();

	buffer[0] = 's';
	while (now() - start < seconds)
		if (send(fd, buffer, sizeof(buffer), 0) <= 0)
			die("send");
	shutdown(fd, SHUT_WR);
	if (recv(fd, &total, sizeof(total), MSG_WAITALL) != sizeof(total))
		die("receive");
	return total * 8 / (now() - start) / 1e6;
}

/* An IPv4 address goes as an IPv4-mapped one: one kind of socket for both. */
static int parse(const char *address)
{
	char mapped[64];

	snprintf(mapped, sizeof(mapped), "%s%s",
		 strchr(address, ':') ? "" : "::ffff:", address);
	peer.sin6_family = AF_INET6;
	return inet_pton(AF_INET6, mapped, &peer.sin6_addr);
}

int main(int argc, char **argv)
{
	double seconds, figure, cpu;

	signal(SIGPIPE, SIG_IGN);
	if (argc == 3 && !strcmp(argv[1], "server"))
		server(atoi(argv[2]));
	if ((argc != 5 && argc != 6) || parse(argv[2]) != 1) {
		fputs("usage: loadgen server PORT | "
		      "loadgen rr|crr|stream ADDRESS PORT SECONDS [work]\n",
		      stderr);
		return 2;
	}
	peer.sin6_port = htons(atoi(argv[3]));
	seconds = atof(argv[4]);
	cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID);
	figure = !strcmp(argv[1], "rr") ? rr(seconds) :
		 !strcmp(argv[1], "crr") ? crr(seconds) : stream(seconds);
	if (argc == 6)
		printf("%ld %.6f\n", transactions,
		       read_clock(CLOCK_PROCESS_CPUTIME_ID) - cpu);
	else
		printf("%.1f\n", figure);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kuryr-cilium-cni: the CNI plugin, a client of kuryr-cilium-agent.
 *
 * Hands what the container runtime gave (the CNI_* variables and stdin) to
 * the agent over a Unix socket, and prints what the agent answers. It is C and
 * static because a container host may have neither Python nor our libraries.
 *
 * Build: gcc -std=gnu11 -O2 -Wall -Wextra -Werror -static \
 *            -o kuryr-cilium-cni kuryr-cilium-cni.c
 *
 * To the agent: "NAME=VALUE\0" for each CNI_* variable, "\0", stdin's bytes,
 * end of file. From the agent: "EXITCODE\n", the JSON to print, end of file.
 *
 * KURYR_CILIUM_CNI_SOCKET names another socket. The deadline is 60 seconds, or
 * "timeout" (seconds) of the network configuration.
 */
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SOCKET_PATH "/run/kuryr-cilium/cni.sock"
#define TIMEOUT 60
#define MAX_BYTES (8u << 20)

/* Error codes of the CNI specification 1.1, section "Error". */
#define ERROR_IO 5
#define ERROR_TRY_AGAIN 11
#define ERROR_UNAVAILABLE 50

extern char **environ;

struct buffer {
	char *data;
	size_t length, room;
};

static const char *cni_version = "1.1.0";
static long long deadline;	/* monotonic milliseconds */

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void print_string(const char *s)
{
	putchar('"');
	for (; *s; s++) {
		unsigned char c = *s;

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 0x20 || c >= 0x7f)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

/* Prints the error as the specification wants it, and ends. */
__attribute__((format(printf, 3, 4), noreturn))
static void fail(int code, const char *msg, const char *format, ...)
{
	char details[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(details, sizeof(details), format, args);
	va_end(args);
	printf("{\"cniVersion\": ");
	print_string(cni_version);
	printf(", \"code\": %d, \"msg\": ", code);
	print_string(msg);
	printf(", \"details\": ");
	print_string(details);
	printf("}\n");
	exit(1);
}

static void append(struct buffer *b, const void *data, size_t length)
{
	if (length > MAX_BYTES - b->length)
		fail(ERROR_IO, "Too much data", "more than %u bytes",
		     MAX_BYTES);
	if (b->length + length + 1 > b->room) {
		b->room = (b->length + length + 1) * 2;
		b->data = realloc(b->data, b->room);
		if (!b->data)
			fail(ERROR_IO, "Out of memory", "%zu bytes", b->room);
	}
	memcpy(b->data + b->length, data, length);
	b->length += length;
	b->data[b->length] = '\0';
}

/* Waits until fd is ready for events; 0 at the deadline. */
static int ready(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	for (;;) {
		long long left = deadline - now();
		int n = poll(&p, 1, left > 0 ? (int)left : 0);

		if (n >= 0)
			return n;
		if (errno != EINTR)
			return 1;	/* read() or write() will say why */
	}
}

/*
 * Reads until end of file; 0, or -1 with errno. A peer that closes without
 * having read all resets the connection, after what it wrote.
 */
static int read_all(int fd, struct buffer *b)
{
	char chunk[65536];

	for (;;) {
		ssize_t n;

		if (!ready(fd, POLLIN)) {
			errno = ETIMEDOUT;
			return -1;
		}
		n = read(fd, chunk, sizeof(chunk));
		if (n == 0)
			return 0;
		if (n > 0)
			append(b, chunk, n);
		else if (errno == ECONNRESET && b->length)
			return 0;
		else if (errno != EINTR && errno != EAGAIN)
			return -1;
	}
}

static int write_all(int fd, const char *data, size_t length)
{
	while (length) {
		ssize_t n;

		if (!ready(fd, POLLOUT)) {
			errno = ETIMEDOUT;
			return -1;
		}
		n = send(fd, data, length, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0) {
			data += n;
			length -= n;
		} else if (errno != EINTR && errno != EAGAIN) {
			return -1;
		}
	}
	return 0;
}

/*
 * The text behind "key": in the outermost object, quotes included; NULL if
 * there is none. Strings and nesting are followed; the agent judges the JSON.
 */
static const char *find(const char *json, const char *key)
{
	size_t length = strlen(key);
	int depth = 0;

	for (const char *s = json; *s; s++) {
		const char *start;

		if (*s == '{' || *s == '[')
			depth++;
		else if (*s == '}' || *s == ']')
			depth--;
		if (*s != '"')
			continue;
		start = s + 1;
		for (s++; *s && *s != '"'; s++)
			if (*s == '\\' && s[1])
				s++;
		if (!*s)
			return NULL;
		if (depth != 1 || (size_t)(s - start) != length ||
		    memcmp(start, key, length))
			continue;
		start = s + 1;
		start += strspn(start, " \t\r\n");
		if (*start == ':')
			return start + 1 + strspn(start + 1, " \t\r\n");
	}
	return NULL;
}

/* Takes cniVersion and timeout from the network configuration. */
static void configure(const char *json)
{
	static char version[16];
	const char *value = find(json, "cniVersion");
	size_t length = 0;
	long timeout;

	if (value && *value == '"') {
		length = strspn(value + 1, "0123456789.");
		if (length && length < sizeof(version) &&
		    value[1 + length] == '"') {
			memcpy(version, value + 1, length);
			cni_version = version;
		}
	}
	value = find(json, "timeout");
	if (value && isdigit((unsigned char)*value)) {
		timeout = strtol(value, NULL, 10);
		if (timeout > 0 && timeout <= 3600)
			deadline = now() + timeout * 1000;
	}
}

static int print_version(void)
{
	printf("{\"cniVersion\": ");
	print_string(cni_version);
	puts(", \"supportedVersions\": [\"0.3.0\", \"0.3.1\", \"0.4.0\", "
	     "\"1.0.0\", \"1.1.0\"]}");
	return 0;
}

static void request(struct buffer *b, const struct buffer *input)
{
	for (char **variable = environ; *variable; variable++)
		if (!strncmp(*variable, "CNI_", 4))
			append(b, *variable, strlen(*variable) + 1);
	append(b, "", 1);
	if (input->length)
		append(b, input->data, input->length);
}

/* A connect waits while the agent's queue of connections is full. */
static void limit_connect(int fd)
{
	long long left = deadline - now();
	struct timeval limit = {
		.tv_sec = left > 0 ? left / 1000 : 0,
		.tv_usec = left > 0 ? left % 1000 * 1000 : 1,
	};

	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

static int dial(const char *path, const char *command)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int code = !strcmp(command, "STATUS") ? ERROR_UNAVAILABLE :
		   ERROR_TRY_AGAIN;
	int result;

	if (fd < 0)
		fail(ERROR_IO, "Cannot make a socket", "%s", strerror(errno));
	if (strlen(path) >= sizeof(address.sun_path))
		fail(ERROR_IO, "The socket's path is too long", "%s", path);
	strcpy(address.sun_path, path);
	limit_connect(fd);
	do
		result = connect(fd, (struct sockaddr *)&address,
				 sizeof(address));
	while (result < 0 && errno == EINTR);
	if (result < 0)
		fail(code, "kuryr-cilium-agent does not run on this node",
		     "cannot connect to %s: %s. Start kuryr-cilium-agent (its "
		     "DaemonSet or service) and look at its log; the pod is "
		     "tried again by itself.", path, strerror(errno));
	return fd;
}

/* Prints the agent's answer; the exit code. */
static int answer(const struct buffer *b)
{
	char *end;
	long code;

	if (!b->length)
		fail(ERROR_TRY_AGAIN, "kuryr-cilium-agent gave no answer",
		     "it ended while it was working. Look at its log.");
	code = strtol(b->data, &end, 10);
	if (end == b->data || *end != '\n' || code < 0 || code > 255)
		fail(ERROR_IO, "kuryr-cilium-agent's answer is not understood",
		     "do kuryr-cilium-cni and the agent have the same "
		     "version? It begins with: %.64s", b->data);
	end++;
	if (fwrite(end, 1, b->length - (end - b->data), stdout) !=
	    b->length - (end - b->data) || fflush(stdout))
		return 1;
	return code;
}

int main(void)
{
	struct buffer input = { 0 }, message = { 0 }, reply = { 0 };
	const char *command = getenv("CNI_COMMAND");
	const char *path = getenv("KURYR_CILIUM_CNI_SOCKET");
	int fd;

	signal(SIGPIPE, SIG_IGN);
	deadline = now() + TIMEOUT * 1000;
	if (!command)
		fail(4, "CNI_COMMAND is not set",
		     "kuryr-cilium-cni is started by a container runtime");
	append(&input, "", 0);
	if (read_all(STDIN_FILENO, &input))
		fail(ERROR_IO, "Cannot read the network configuration", "%s",
		     strerror(errno));
	configure(input.data);
	if (!strcmp(command, "VERSION"))
		return print_version();
	if (!path || !*path)
		path = SOCKET_PATH;
	fd = dial(path, command);
	request(&message, &input);
	/* An agent that refuses early has answered before it closed. */
	if (write_all(fd, message.data, message.length) && errno != EPIPE &&
	    errno != ECONNRESET)
		fail(ERROR_TRY_AGAIN, "kuryr-cilium-agent takes no requests",
		     "%s: %s", path, strerror(errno));
	shutdown(fd, SHUT_WR);
	if (read_all(fd, &reply))
		fail(ERROR_TRY_AGAIN, "kuryr-cilium-agent does not answer",
		     "%s: %s. Look at the agent's log; \"timeout\" of the "
		     "network configuration sets the seconds to wait.", path,
		     strerror(errno));
	return answer(&reply);
}

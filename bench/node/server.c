/* A node in C, of libei, that answers as the bridge answers a ping: server NAME@HOST COOKIE. One connection at a time. */
#include <ei.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define CHECK(is_so) do { if (!(is_so)) { fprintf(stderr, "server.c:%d: " #is_so "\n", __LINE__); exit(1); } } while (0)

/* The answer to {'$gen_call', {Pid, Tag}, #{payload := Payload, ...}} is {Tag, {ok, Payload}}, that to a call with anything
   but a map, which is a ping, {Tag, yes}. False for what is no call. */
static int answer(const char *in, ei_x_buff *out, erlang_pid *pid) {
  char atom[MAXATOMLEN_UTF8];
  int at = 0, version, arity;
  if (ei_decode_version(in, &at, &version) || ei_decode_tuple_header(in, &at, &arity) || arity != 3) return 0;
  if (ei_decode_atom(in, &at, atom) || strcmp(atom, "$gen_call") || ei_decode_tuple_header(in, &at, &arity)) return 0;
  if (ei_decode_pid(in, &at, pid)) return 0;
  int tag = at;
  if (ei_skip_term(in, &at)) return 0;
  int tag_end = at;
  out->index = 0;
  ei_x_encode_version(out);
  ei_x_encode_tuple_header(out, 2);
  ei_x_append_buf(out, in + tag, tag_end - tag);
  if (ei_decode_map_header(in, &at, &arity)) return !ei_x_encode_atom(out, "yes");
  for (int pair = 0; pair < arity; pair++) {
    if (ei_decode_atom(in, &at, atom)) return 0;
    int value = at;
    if (ei_skip_term(in, &at)) return 0;
    if (strcmp(atom, "payload")) continue;
    ei_x_encode_tuple_header(out, 2);
    ei_x_encode_atom(out, "ok");
    ei_x_append_buf(out, in + value, at - value);
    return 1;
  }
  return 0;
}

int main(int argc, char **argv) {
  CHECK(argc == 3 && !ei_init());
  char *host = strchr(argv[1], '@');
  CHECK(host);
  char *name = strdup(argv[1]);
  *host++ = 0;
  struct in_addr address = {htonl(INADDR_LOOPBACK)};
  ei_cnode node;
  CHECK(!ei_connect_xinit(&node, host, argv[1], name, &address, argv[2], 1));
  int port = 0, listener = ei_xlisten(&node, &address, &port, 16);
  CHECK(listener >= 0 && ei_publish(&node, port) >= 0);
  puts("ready");
  fflush(stdout);
  ei_x_buff in, out;
  ei_x_new(&in);
  ei_x_new(&out);
  for (;;) {
    ErlConnect peer;
    int fd = ei_accept(&node, listener, &peer), on = 1;
    if (fd < 0) continue;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    for (;;) {
      erlang_msg message;
      erlang_pid pid;
      in.index = 0;
      int got = ei_xreceive_msg(fd, &message, &in);
      if (got == ERL_TICK) continue;
      if (got != ERL_MSG) break;
      if (answer(in.buff, &out, &pid)) ei_send(fd, &pid, out.buff, out.index);
    }
    ei_close_connection(fd);
  }
}

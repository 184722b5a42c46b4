// Events on sockets of `Bun.listen`.
Bun.listen({
  hostname: "0.0.0.0",
  port: Number(Bun.argv[2]),
  socket: {
    open: (socket) => socket.write("Hello World!\r\n"),
    data: (socket, data) => socket.end(data.subarray(0, 1024)),
    error() {},
  },
});

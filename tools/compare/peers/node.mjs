// Events on sockets of `node:net`.
import net from "node:net";
import process from "node:process";

net.createServer((socket) => {
  socket.on("error", () => {});
  socket.write("Hello World!\r\n");
  socket.once("data", (data) => socket.end(data.subarray(0, 1024)));
}).listen(Number(process.argv[2]), "0.0.0.0", 4096);

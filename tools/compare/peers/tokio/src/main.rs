// A task of tokio, the library beneath Deno, for each connection.
// Usage: tokio-echo PORT [current_thread | multi_thread]
use std::{env, io, net::Ipv4Addr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Builder;

const GREETING: &[u8] = b"Hello World!\r\n";

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().collect();
    let port = args[1].parse().expect("a port");
    let mut runtime = match args.get(2).map(String::as_str) {
        Some("multi_thread") => Builder::new_multi_thread(),
        _ => Builder::new_current_thread(),
    };
    let runtime = runtime.enable_io().build()?;
    // A task like the others: what block_on runs itself would come first.
    runtime.block_on(runtime.spawn(serve(port)))?
}

async fn serve(port: u16) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::UNSPECIFIED, port).into())?;
    let listener = socket.listen(4096)?;
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(exchange(client));
    }
}

async fn exchange(mut client: TcpStream) -> io::Result<()> {
    client.write_all(GREETING).await?;
    let mut buffer = [0; 1024];
    let n = client.read(&mut buffer).await?;
    client.write_all(&buffer[..n]).await
}

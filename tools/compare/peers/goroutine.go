// A goroutine for each connection.
package main

import (
	"fmt"
	"net"
	"os"
)

var greeting = []byte("Hello World!\r\n")

func main() {
	listener, err := net.Listen("tcp4", "0.0.0.0:"+os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go exchange(conn)
	}
}

func exchange(conn net.Conn) {
	defer conn.Close()
	if _, err := conn.Write(greeting); err != nil {
		return
	}
	buffer := make([]byte, 1024)
	n, err := conn.Read(buffer)
	if err != nil {
		return
	}
	conn.Write(buffer[:n])
}

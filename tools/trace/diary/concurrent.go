package main

import (
        "io"
        "fmt"
        "net"
)

func main() {
        l, err := net.Listen("tcp4", "0.0.0.0:30000")
        defer l.Close()
        if err != nil {
                panic(err)
        }   
        fmt.Println("wait...")
        for {
                conn, err := l.Accept()
                if err != nil {
                        panic(err)
                }   
                go func(conn net.Conn) {
                        _, err = conn.Write([]byte("Hello World!\r\n"))
                        if err != nil {
                                panic(err)
                        }   
                        buf := make([]byte, 1024)
                        n, err := conn.Read(buf)
                        if err != nil {
                                if err == io.EOF {
                                        return
                                }   
                                panic(err)
                        }   
                        _, err = conn.Write(buf[:n])
                        if err != nil {
                                panic(err)
                        }   
                        conn.Close()
                }(conn)
        }   
}

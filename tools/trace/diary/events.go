package main

import (
        "fmt"
        "io"
        "net"
)

type Event struct {
        Conn net.Conn
        Msg []byte
}

func asyncAccept(l net.Listener) chan net.Conn {
        ch := make(chan net.Conn)
        go func() {
                for {
                        conn, err := l.Accept()
                        if err != nil {
                                panic(err)
                        }   
                        _, err = conn.Write([]byte("Hello World!\r\n"))
                        if err != nil {
                                panic(err)
                        }   
                        ch<-conn
                }   
        }() 
        return ch
}

func asyncRead(ch chan *Event, conn net.Conn) {
        go func() {
                buf := make([]byte, 1024)
                _, err := conn.Read(buf)
                if err != nil {
                        if err == io.EOF {
                                return
                        }   
                        panic(err)
                }   
                event := &Event{ conn, buf }
                ch<-event
        }() 
}

func main() {
        l, err := net.Listen("tcp4", "0.0.0.0:30000")
        defer l.Close()
        if err != nil {
                panic(err)
        }   

        fmt.Println("wait...")
        listener := asyncAccept(l)
        events := make(chan *Event)
        for {
                select {
                case conn := <-listener:
                        asyncRead(events, conn)
                case event := <-events:
                        _, err = event.Conn.Write(event.Msg)
                        if err != nil {
                                panic(err)
                        }
                        event.Conn.Close()
                }
        }
}

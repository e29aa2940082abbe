package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The addresses that wanlink gives the two ends.
const (
	nearAddr = "10.99.0.1:0"
	farAddr  = "10.99.0.2:0"
)

// A wan is a wide-area road between two network namespaces, while its wanlink
// runs. Both ends are still sockets of this process.
type wan struct {
	road      *exec.Cmd
	near, far string // namespaces
}

// buildWanlink builds the program that makes roads. The caller removes it.
func buildWanlink(ctx context.Context) (program string, remove func(), err error) {
	if os.Geteuid() != 0 {
		return "", nil, errors.New("needs root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return "", nil, err
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return "", nil, fmt.Errorf("needs iproute2: %w", err)
	}
	dir, err := os.MkdirTemp("", "bench-mux-")
	if err != nil {
		return "", nil, err
	}
	remove = func() { os.RemoveAll(dir) }
	program = filepath.Join(dir, "wanlink")
	out, err := exec.CommandContext(ctx, "go", "build", "-C", "../tools", "-o", program, "./wanlink").CombinedOutput()
	if err != nil {
		remove()
		return "", nil, fmt.Errorf("build wanlink, from the directory bench: %w: %s", err, out)
	}
	return program, remove, nil
}

// overWAN calls do with a road of 200 Mbit/s and 50 ms that loses packets with
// the given probability. Where there is no road to be had, it says so.
func (b *bench) overWAN(ctx context.Context, loss float64, do func(context.Context, link) error) error {
	if b.wanlink == "" {
		return nil
	}
	w, err := startWAN(ctx, b.wanlink, loss)
	if err != nil {
		log.Printf("the wide-area road is left out: %v", err)
		return nil
	}
	defer w.stop()
	return do(ctx, link{
		name:    fmt.Sprintf("200 Mbit/s, 50 ms and %g %% loss, kernel TCP", 100*loss),
		pipe:    w.pipe,
		packets: w.packets,
	})
}

func startWAN(ctx context.Context, program string, loss float64) (*wan, error) {
	w := &wan{near: fmt.Sprintf("bench%dn", os.Getpid()), far: fmt.Sprintf("bench%df", os.Getpid())}
	w.road = exec.Command(program, "-a", w.near, "-b", w.far, "-delay", "25ms", "-rate", "200", "-loss", fmt.Sprint(loss))
	w.road.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	var said strings.Builder
	w.road.Stderr = &said
	out, err := w.road.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := w.road.Start(); err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { w.road.Process.Signal(syscall.SIGTERM) })()
	timer := time.AfterFunc(patience, func() { w.road.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	timer.Stop()
	if err != nil || line != "ready\n" {
		w.stop()
		return nil, fmt.Errorf("wanlink is not ready: %s", strings.TrimSpace(said.String()))
	}
	for _, name := range []string{w.near, w.far} {
		if err := inNamespace(name, forgetConnections); err != nil {
			w.stop()
			return nil, err
		}
	}
	return w, nil
}

// stop takes the road away, and its namespaces, in bounded time.
func (w *wan) stop() {
	w.road.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(5*time.Second, func() { w.road.Process.Kill() })
	err := w.road.Wait()
	if kill.Stop() && err == nil {
		return
	}
	for _, name := range []string{w.near, w.far} { // it did not come to that itself
		exec.Command("ip", "netns", "del", name).Run()
	}
}

func (w *wan) pipe() (client, server net.Conn, err error) {
	listen := func(network, addr string) (ln net.Listener, err error) {
		err = inNamespace(w.far, func() error {
			ln, err = net.Listen(network, addr)
			return err
		})
		return ln, err
	}
	dial := func(network, addr string) (conn net.Conn, err error) {
		err = inNamespace(w.near, func() error {
			conn, err = net.DialTimeout(network, addr, patience)
			return err
		})
		return conn, err
	}
	return join(farAddr, listen, dial)
}

func (w *wan) packets() (client, server net.PacketConn, err error) {
	err = inNamespace(w.near, func() error {
		client, err = net.ListenPacket("udp4", nearAddr)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	err = inNamespace(w.far, func() error {
		server, err = net.ListenPacket("udp4", farAddr)
		return err
	})
	if err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	return client, server, nil
}

// forgetConnections keeps the kernel from giving a connection a better start
// for what it learned from the one before.
func forgetConnections() error {
	return os.WriteFile("/proc/sys/net/ipv4/tcp_no_metrics_save", []byte("1"), 0)
}

// inNamespace calls do in the network namespace of that name. Sockets that do
// makes stay there, wherever they are used afterwards. It must make them in
// its own goroutine, as package net does when nothing has to be looked up.
func inNamespace(name string, do func() error) (err error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	there, err := os.Open("/run/netns/" + name)
	if err != nil {
		return err
	}
	defer there.Close()

	runtime.LockOSThread()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace %s: %w", name, err)
	}
	err = do()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back) // still locked: nobody else shall run there
	}
	runtime.UnlockOSThread()
	return err
}

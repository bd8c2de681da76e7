package servers

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// sbin is where Debian has its servers, which is not in everybody's PATH.
const sbin = "/usr/sbin/"

// find returns the path of a program, and skips the test if there is none.
func find(t *testing.T, program string) string {
	for _, name := range []string{program, sbin + program} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("STURDY_SERVERS") == "required" {
		t.Fatalf("there is no %s, and STURDY_SERVERS says that it is required", program)
	}
	t.Skipf("there is no %s. On Debian: apt-get install nginx haproxy", program)
	return ""
}

// start starts a server that limits what it passes on to a backend, and returns its
// address. It ends with the test, and keeps what it writes in a folder that does, too.
func (l *limit) start(t *testing.T, backend string) (addr string) {
	path, dir := find(t, l.program), t.TempDir()
	file, log := filepath.Join(dir, l.program+".conf"), filepath.Join(dir, "error.log")
	args := []string{"-e", log, "-p", dir, "-c", file}
	if l.program == haproxy {
		args = []string{"-db", "-f", file}
	}
	// A port that was free may be taken by somebody else before the server has it.
	for try := 1; ; try++ {
		addr = free(t)
		if err := os.WriteFile(file, []byte(l.config(dir, addr, backend)), 0o600); err != nil {
			t.Fatal(err)
		}
		err := run(t, addr, path, args...)
		if err == nil {
			return addr
		}
		if try == 5 {
			written, _ := os.ReadFile(log)
			t.Fatalf("%s does not listen: %v\n%s", l.program, err, written)
		}
	}
}

// free returns a loopback address that nobody listens at.
func free(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// run runs a program until the test ends, and returns when it listens at addr.
func run(t *testing.T, addr, path string, args ...string) error {
	var said bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	var err error
	go func() {
		err = cmd.Wait()
		close(ended)
	}()
	watcher, watch := outlive(t, cmd.Process)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		// The watcher first, as the number of the process may soon be another's.
		_ = watcher.Process.Kill()
		_ = watcher.Wait()
		watch()
	})
	for {
		conn, failed := net.Dial("tcp", addr)
		if failed == nil {
			conn.Close()
		}
		select {
		case <-ended:
			return fmt.Errorf("%w: %s", err, said.String())
		case <-time.After(20 * time.Millisecond):
		}
		if failed == nil {
			return nil
		}
	}
}

// outlive starts a watcher, which kills a process when the test's own ends: a test that
// panics runs no cleanup.
func outlive(t *testing.T, p *os.Process) (watcher *exec.Cmd, free func()) {
	watcher = exec.Command("sh", "-c", `cat >/dev/null; kill -9 "$0"`, fmt.Sprint(p.Pid))
	in, err := watcher.StdinPipe() // ends with us
	if err == nil {
		err = watcher.Start()
	}
	if err != nil {
		_ = p.Kill()
		t.Fatal(err)
	}
	return watcher, func() { in.Close() }
}

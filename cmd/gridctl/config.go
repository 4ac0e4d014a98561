package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/gridmesh/grid"
)

// memberConfig is what a process needs to be a node of a grid.
type memberConfig struct {
	// As given.
	local      string
	hostList   string
	listen     string
	secretFile string
	certFile   string
	keyFile    string
	caFile     string
	join       string        // URLs of servers; empty for a host
	limits     grid.Limits   // the flags' part of them; package grid checks it
	busyPoll   time.Duration // package grid checks it

	acceptGuests bool
	page         string // address of the status page; empty for none
	path         string // where nodes connect to each other; empty for package grid's own

	// From the above, by check.
	hosts     []string
	servers   []string    // of a guest
	secret    string      // empty for none
	warnings  []string    // about what was read
	serverTLS *tls.Config // nil without TLS
	clientTLS *tls.Config // towards https names; nil for the system's roots
}

// addTo adds the flags of a member to fs.
func (c *memberConfig) addTo(fs *flag.FlagSet) {
	fs.StringVar(&c.local, "local", "", "the `URL` of this node, one of -hosts; http://host:port or https://host:port")
	fs.StringVar(&c.hostList, "hosts", "", "the `URLs` of all nodes, this one too, with commas between them; the same for every node")
	c.addAccess(fs)
	c.addTimes(fs)
	fs.Var((*duration)(&c.busyPoll), "busy-poll", "the `time` for which input is polled for before it is waited for, such as 200us; it makes\na few callers faster, for CPU time (default: none)")
}

// addAccess adds the flags of how a node is reached, and lets others in.
func (c *memberConfig) addAccess(fs *flag.FlagSet) {
	fs.StringVar(&c.listen, "listen", "", "the `address` to listen on, host:port or :port (default: host and port of -local; all\ninterfaces where its host is a name other than localhost)")
	fs.StringVar(&c.secretFile, "secret-file", "", "a `file` with the secret that all nodes share, in one line; without it everybody who reaches this node can join.\nOthers must not be able to change it, and should not to read it")
	fs.StringVar(&c.certFile, "cert", "", "a PEM `file` with the certificate of this node, for https names")
	fs.StringVar(&c.keyFile, "key", "", "a PEM `file` with the key of -cert")
	fs.StringVar(&c.caFile, "ca", "", "a PEM `file` with the certificates that sign those of the other nodes (default: the system's)")
}

// addGuests adds the flags of a node that is a guest, or accepts guests.
func (c *memberConfig) addGuests(fs *flag.FlagSet) {
	fs.StringVar(&c.join, "join", "", "the `URLs` of nodes to be a guest of, with commas between them: this node dials them, and nobody dials it.\nThen -local is any name without a colon, and -hosts is left out")
	fs.BoolVar(&c.acceptGuests, "accept-guests", false, "let nodes with the same secret join as guests, as -join makes them")
}

// addTimes adds the flags of what a node does about a silent peer.
func (c *memberConfig) addTimes(fs *flag.FlagSet) {
	fs.Var((*duration)(&c.limits.PingInterval), "ping-interval", "the `time` between the pings that ask another node for a sign of life (default: 10s)")
	fs.Var((*duration)(&c.limits.PeerTimeout), "peer-timeout", "the `time` that another node may be silent before its connection is dropped, at least\ntwice -ping-interval (default: 20s, or twice -ping-interval)")
}

// limitFlags puts the names of flags in place of those of fields.
var limitFlags = strings.NewReplacer("grid: Limits.PingInterval:", "-ping-interval:", "grid: Limits.PeerTimeout:", "-peer-timeout:",
	"grid: ManagerOptions.BusyPoll:", "-busy-poll:")

// refused is why package grid does not take a configuration, for who gave it as flags.
func refused(err error) error { return cannotStart("%s", limitFlags.Replace(err.Error())) }

// check completes the configuration. It says what the user has to change.
func (c *memberConfig) check() error {
	names := c.checkHosts
	if c.join != "" {
		names = c.checkServers
	}
	if err := names(); err != nil {
		return err
	}
	if err := c.readSecret(); err != nil {
		return err
	}
	return c.readCertificates()
}

func (c *memberConfig) checkHosts() error {
	switch {
	case c.local == "" && c.hostList == "":
		return cannotStart("-local and -hosts are missing; try -local http://127.0.0.1:9001 -hosts http://127.0.0.1:9001,http://127.0.0.1:9002")
	case c.local == "":
		return cannotStart("-local is missing; it is the one of -hosts that this node is")
	case c.hostList == "":
		return cannotStart("-hosts is missing; it names all nodes, this one too, with commas between them")
	}
	var err error
	if c.local, err = cleanHost("-local", c.local); err != nil {
		return err
	}
	for name := range strings.SplitSeq(c.hostList, ",") {
		if strings.TrimSpace(name) == "" {
			continue
		}
		if name, err = cleanHost("-hosts", name); err != nil {
			return err
		}
		if slices.Contains(c.hosts, name) {
			return cannotStart("-hosts has %s twice; name each node once", name)
		}
		c.hosts = append(c.hosts, name)
	}
	if !slices.Contains(c.hosts, c.local) {
		return cannotStart("-local %s is not in -hosts %s; add it there, on all nodes, in the same spelling", c.local, strings.Join(c.hosts, ","))
	}
	return c.checkListen()
}

// checkServers is checkHosts for a guest.
func (c *memberConfig) checkServers() error {
	switch {
	case c.local == "":
		return cannotStart("-local is missing; with -join it is a name for this node, such as -local probe-7")
	case strings.Contains(c.local, ":"):
		return cannotStart("-local %s has a colon; with -join it is a name and no URL, such as -local probe-7", c.local)
	case c.hostList != "" || c.listen != "" || c.acceptGuests || c.certFile != "" || c.keyFile != "":
		return cannotStart("-join makes a guest, which nobody dials; leave out -hosts, -listen, -accept-guests, -cert and -key")
	}
	for name := range strings.SplitSeq(c.join, ",") {
		if strings.TrimSpace(name) == "" {
			continue
		}
		name, err := cleanHost("-join", name)
		if err != nil {
			return err
		}
		if slices.Contains(c.servers, name) {
			return cannotStart("-join has %s twice; name each node once", name)
		}
		c.servers = append(c.servers, name)
	}
	if len(c.servers) == 0 {
		return cannotStart("-join names no node; try -join http://127.0.0.1:9001")
	}
	return nil
}

// cleanHost returns the name of a node without what people add to URLs.
func cleanHost(flagName, name string) (string, error) {
	name = strings.TrimRight(strings.TrimSpace(name), "/")
	if !strings.Contains(name, "://") {
		return "", cannotStart("%s %s is not a URL; did you mean http://%s?", flagName, name, name)
	}
	u, err := url.Parse(name)
	switch {
	case err != nil:
		return "", cannotStart("%s %s is not a URL: %v", flagName, name, err)
	case u.Scheme != "http" && u.Scheme != "https":
		return "", cannotStart("%s %s does not start with http:// or https://", flagName, name)
	case u.Hostname() == "":
		return "", cannotStart("%s %s has no host; write %s://host:port", flagName, name, u.Scheme)
	case u.Host != strings.TrimPrefix(name, u.Scheme+"://"):
		return "", cannotStart("%s %s has more than a host and a port; write %s://%s", flagName, name, u.Scheme, u.Host)
	}
	return name, nil
}

func (c *memberConfig) checkListen() error {
	if c.listen == "" {
		c.listen = defaultListen(c.local)
	}
	_, port, err := net.SplitHostPort(c.listen)
	if err != nil || port == "" {
		return cannotStart("-listen %s is not an address; write host:port or :port", c.listen)
	}
	return nil
}

// defaultListen is the address of a node's own name: of the one interface that
// the name says, if it says one.
func defaultListen(local string) string {
	u, err := url.Parse(local)
	if err != nil {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	host := u.Hostname()
	if net.ParseIP(host) == nil && host != "localhost" {
		host = ""
	}
	return net.JoinHostPort(host, port)
}

func (c *memberConfig) readSecret() error {
	if c.secretFile == "" {
		return nil
	}
	b, err := c.readPrivate("-secret-file", c.secretFile)
	if err != nil {
		return err
	}
	c.secret = strings.TrimSpace(string(b))
	switch {
	case c.secret == "":
		return cannotStart("-secret-file %s is empty; write the secret into it, in one line", c.secretFile)
	case strings.ContainsFunc(c.secret, func(r rune) bool { return r <= ' ' || r > '~' }):
		return cannotStart("-secret-file %s has more than one word of plain characters; write the secret into it, in one line, such as from: openssl rand -hex 32", c.secretFile)
	}
	return nil
}

// readPrivate reads a file that nobody else should know, and keeps what is to be said about it.
func (c *memberConfig) readPrivate(flagName, name string) ([]byte, error) {
	b, warning, err := readPrivate(flagName, name)
	if warning != "" {
		c.warnings = append(c.warnings, warning)
	}
	return b, err
}

// loadKeyPair reads a certificate and its key. keyFlag is what the latter was given with.
func (c *memberConfig) loadKeyPair(certFile, keyFlag, keyFile string) (tls.Certificate, error) {
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := c.readPrivate(keyFlag, keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// keyPair is loadKeyPair with an error for who gave the flags.
func (c *memberConfig) keyPair(certFlag, certFile, keyFlag, keyFile string) (tls.Certificate, error) {
	pair, err := c.loadKeyPair(certFile, keyFlag, keyFile)
	var wrong *startError
	if err != nil && !errors.As(err, &wrong) {
		err = cannotStart("cannot use %s %s with %s %s: %v", certFlag, certFile, keyFlag, keyFile, err)
	}
	return pair, err
}

// warn says what is not as it should be, and does not keep the command from running.
func (c *memberConfig) warn(command string, stderr io.Writer) {
	for _, text := range c.warnings {
		fmt.Fprintf(stderr, "gridctl %s: warning: %s\n", command, text)
	}
}

func (c *memberConfig) readCertificates() error {
	switch secure := strings.HasPrefix(c.local, "https:"); {
	case secure && c.certFile == "":
		return cannotStart("-local %s needs a certificate; give -cert and -key, or use an http:// name", c.local)
	case secure && c.keyFile == "":
		return cannotStart("-cert needs its key; give -key")
	case !secure && (c.certFile != "" || c.keyFile != ""):
		return cannotStart("-cert and -key are for https:// names, and -local is %s", c.local)
	}
	if c.certFile != "" {
		cert, err := c.keyPair("-cert", c.certFile, "-key", c.keyFile)
		if err != nil {
			return err
		}
		c.serverTLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	}
	c.clientTLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if c.caFile == "" {
		return nil
	}
	var err error
	c.clientTLS.RootCAs, err = readAuthorities("-ca", c.caFile)
	return err
}

// readAuthorities reads the certificates that sign those of others.
func readAuthorities(flagName, name string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(name)
	if err != nil {
		return nil, cannotStart("cannot read %s: %v", flagName, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, cannotStart("%s %s has no certificate in PEM form; that is a file with lines like -----BEGIN CERTIFICATE-----", flagName, name)
	}
	return roots, nil
}

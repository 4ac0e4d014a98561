package main

import (
	"context"
	"crypto/tls"
	"flag"
	"net"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/gridmesh/grid/contrib/gridetcd"
	"github.com/gridmesh/grid/discovery"
)

// discoverConfig says where a node finds the others.
type discoverConfig struct {
	from string // -discover; empty for nowhere

	// Of etcd.
	userFile, caFile, certFile, keyFile string
}

// addTo adds the flags to fs.
func (c *discoverConfig) addTo(fs *flag.FlagSet) {
	fs.StringVar(&c.from, "discover", "", "a `source` of the URLs of all nodes, in place of -hosts, or from when it answers: file:PATH has one on each line,\n"+
		"and may be replaced; dns:http://HOST:PORT is the addresses of a host, dns:https://_SERVICE._tcp.DOMAIN its SRV records;\n"+
		"etcd://HOST:PORT,HOST:PORT/PREFIX has the nodes register below a prefix of keys, etcds:// the same with TLS")
	fs.StringVar(&c.userFile, "etcd-user-file", "", "a `file` with a user of etcd and its password, USER:PASSWORD in one line (default: none).\nOthers must not be able to change it, and should not to read it")
	fs.StringVar(&c.caFile, "etcd-ca", "", "a PEM `file` with the certificates that sign that of etcd (default: the system's)")
	fs.StringVar(&c.certFile, "etcd-cert", "", "a PEM `file` with a certificate that this node shows etcd (default: none)")
	fs.StringVar(&c.keyFile, "etcd-key", "", "a PEM `file` with the key of -etcd-cert")
}

// source returns what -discover names, or nil, for a member that was checked.
func (c *discoverConfig) source(m *memberConfig) (discovery.Source, error) {
	kind, where, _ := strings.Cut(c.from, ":")
	if kind == "etcd" || kind == "etcds" {
		return c.etcd(m, kind == "etcds", where)
	}
	for flagName, value := range map[string]string{"-etcd-user-file": c.userFile, "-etcd-ca": c.caFile, "-etcd-cert": c.certFile, "-etcd-key": c.keyFile} {
		if value != "" {
			return nil, cannotStart("%s is for -discover etcd://HOST:PORT/PREFIX", flagName)
		}
	}
	switch {
	case c.from == "":
		return nil, nil
	case kind == "file" && where != "":
		return discovery.File(where), nil
	case kind == "dns" && where != "":
		return discovery.DNS(where), nil
	}
	return nil, cannotStart("-discover %s is neither file:PATH nor dns:URL nor etcd://HOST:PORT/PREFIX", c.from)
}

// etcd returns a source in etcd.
func (c *discoverConfig) etcd(m *memberConfig, secure bool, where string) (discovery.Source, error) {
	var err error
	where, slashes := strings.CutPrefix(where, "//")
	list, prefix, _ := strings.Cut(where, "/")
	prefix = strings.Trim(prefix, "/")
	switch {
	case strings.Contains(list, "@"):
		return nil, cannotStart("-discover has a user of etcd, which others may see; give it with -etcd-user-file")
	case !slashes || list == "":
		return nil, cannotStart("-discover %s names no etcd; write etcd://HOST:PORT/PREFIX", c.from)
	case prefix == "":
		return nil, cannotStart("-discover %s has no prefix of keys; write etcd://%s/grid, or another one", c.from, list)
	}
	config := clientv3.Config{DialTimeout: etcdTime, Logger: zap.NewNop()} // the log has why a discovery failed
	scheme := "http://"
	if secure {
		scheme = "https://"
		if config.TLS, err = c.tls(m); err != nil {
			return nil, err
		}
	} else if c.caFile != "" || c.certFile != "" || c.keyFile != "" {
		return nil, cannotStart("-etcd-ca, -etcd-cert and -etcd-key are for TLS; write -discover etcds://%s", where)
	}
	for address := range strings.SplitSeq(list, ",") {
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			return nil, cannotStart("-discover %s: %q is not HOST:PORT", c.from, address)
		}
		config.Endpoints = append(config.Endpoints, scheme+address)
	}
	if c.userFile != "" {
		if config.Username, config.Password, err = c.user(m); err != nil {
			return nil, err
		}
		if !secure {
			m.warnings = append(m.warnings, "the password of etcd goes over the network as it is; -discover etcds:// has TLS")
		}
	}
	source := gridetcd.Source{Prefix: "/" + prefix}
	if m.join == "" { // nobody is to find a guest
		source.Local = m.local
	}
	return &etcdSource{config, source}, nil
}

// etcdSource is a source in etcd that connects when it is watched: a client with a user asks for a
// token at once, and the node is to start while etcd is away.
type etcdSource struct {
	config clientv3.Config
	source gridetcd.Source
}

func (s *etcdSource) String() string { return s.source.String() }

// Watch is part of discovery.Source.
func (s *etcdSource) Watch(ctx context.Context, found func(hosts []string)) error {
	client, err := clientv3.New(s.config)
	if err != nil {
		return err
	}
	defer client.Close()
	source := s.source
	source.Client = client
	return source.Watch(ctx, found)
}

// etcdTime bounds how long a connection to etcd may take to open.
const etcdTime = 5 * time.Second

// tls returns the configuration of TLS towards etcd.
func (c *discoverConfig) tls(m *memberConfig) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	switch {
	case c.certFile == "" && c.keyFile != "":
		return nil, cannotStart("-etcd-key needs its certificate; give -etcd-cert")
	case c.certFile != "" && c.keyFile == "":
		return nil, cannotStart("-etcd-cert needs its key; give -etcd-key")
	case c.certFile != "":
		pair, err := m.keyPair("-etcd-cert", c.certFile, "-etcd-key", c.keyFile)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	if c.caFile == "" {
		return config, nil
	}
	var err error
	config.RootCAs, err = readAuthorities("-etcd-ca", c.caFile)
	return config, err
}

// user reads the name and the password of a user of etcd.
func (c *discoverConfig) user(m *memberConfig) (name, password string, err error) {
	b, err := m.readPrivate("-etcd-user-file", c.userFile)
	if err != nil {
		return "", "", err
	}
	name, password, ok := strings.Cut(strings.TrimRight(string(b), "\r\n"), ":")
	if !ok || name == "" || password == "" || strings.ContainsAny(password, "\r\n") {
		return "", "", cannotStart("-etcd-user-file %s is not USER:PASSWORD in one line", c.userFile)
	}
	return name, password, nil
}

// Package deploy tests the files of the folder deploy, and what docs/deployment.md says of SPIFFE and
// of tokens that are replaced. The programs that read those files are not there: neither a Kubernetes
// cluster, nor Docker, nor Envoy. So the files are read as these read them, and the nodes that they
// describe are started as processes, on addresses of this machine.
package deploy

// Command coredns is the cluster's name server: CoreDNS with the few plugins that its Corefile names.
// The full program knows every cloud; building those would take longer than all of Kubernetes' API server.
package main

import (
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
)

func main() { coremain.Run() }

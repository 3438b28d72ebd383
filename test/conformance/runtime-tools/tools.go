//go:build tools

// Package tools keeps what the programs of runtime-tools are built from in go.mod and go.sum.
package tools

import (
	_ "github.com/opencontainers/runtime-tools/validation/util"
	_ "github.com/urfave/cli"
)

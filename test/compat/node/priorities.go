//go:build !nopriorities

package main

import (
	"context"

	"github.com/gridmesh/grid"
)

func urgent(ctx context.Context) context.Context { return grid.WithPriority(ctx, grid.PriorityHigh) }

func init() { has = append(has, "priorities") }

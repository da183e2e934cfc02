#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Cargo's RUSTC_WRAPPER for scripts/bench_engine.py: compiles the engine, and
# nothing else, with $VFETCH_ENGINE_FLAGS. Without vectors nothing that uses
# floating point can be compiled.
case " $* " in
*' --crate-name vfetch_engine '*)
	# shellcheck disable=SC2086 # one word per option
	exec "$@" $VFETCH_ENGINE_FLAGS
	;;
esac
exec "$@"

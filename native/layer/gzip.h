// Gzip by ISA-L's igzip where the machine has libisal (twice as fast as zlib), else by zlib.
//
// libisal is loaded when the program runs: Debian has no static library of it, and a machine
// without it must still unpack layers.
#pragma once

#include <memory>

#include "layer/decompress.h"

namespace layer {

// MINKE_LAYER_ZLIB in the environment forces zlib, so that both are tested on one machine.
std::unique_ptr<Decompressor> MakeGzip();

}  // namespace layer

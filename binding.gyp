# Three products: the addon (minke.node), minke-oci (static) and minke-layer (libc only).
# -Wno-restrict: g++ 12 warns falsely of std::string (GCC bug 105651); remove once Debian 12 is not built on.
# Sources are globbed by folder, so that a new file needs no change here.
{
  "variables": { "with_tests%": "0" },
  "target_defaults": {
    "include_dirs": ["native"],
    "cflags!": ["-fno-omit-frame-pointer"],
    "cflags_cc!": ["-std=gnu++17", "-std=gnu++20", "-std=gnu++1y"],
    "cflags": ["-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers", "-Wno-restrict"],
    "cflags_cc": ["-std=c++20", "-fno-exceptions", "-fno-rtti"],
    "defines": ["_GNU_SOURCE"],
  },
  "targets": [
    {
      "target_name": "minke",
      "sources": ["<!@(ls native/addon/*.cc native/grpc/*.cc native/sys/*.cc)"],
      "dependencies": ["<!(node -p \"require('node-addon-api').targets\"):node_addon_api"],
      "defines": ["NAPI_VERSION=9", "NODE_ADDON_API_DISABLE_CPP_EXCEPTIONS"],
      "libraries": ["-lnghttp2", "-lpthread"],
    },
    {
      "target_name": "minke-oci",
      "type": "executable",
      "sources": [
        "<!@(ls native/oci/*.cc native/monitor/*.cc native/init/*.cc native/runtime/*.cc native/sys/*.cc)",
      ],
      "cflags": ["-Os", "-ffunction-sections", "-fdata-sections", "-fno-pie"],
      "cflags!": ["-O3", "-fPIC"],
      "ldflags!": ["-rdynamic"],
      "ldflags": ["-static", "-no-pie", "-Wl,--gc-sections", "-Wl,-z,norelro"],
      "libraries": ["-lseccomp"],
      # native/oci/early_start.cc; elsewhere it starts as usual and copies itself into a memfd.
      "conditions": [["target_arch=='x64'", { "ldflags": ["-Wl,-e,minke_start"] }]],
    },
    {
      "target_name": "minke-layer",
      "type": "executable",
      "sources": ["<!@(ls native/layer/*.cc native/sys/*.cc)"],
      "cflags": ["-O2", "-ffunction-sections", "-fdata-sections", "-fno-pie"],
      "cflags!": ["-fPIC"],
      "ldflags!": ["-rdynamic"],
      # Everything but libc is in it: a static program cannot load libisal (native/layer/gzip.h).
      "ldflags": ["-static-libgcc", "-static-libstdc++", "-no-pie", "-Wl,--gc-sections"],
      "libraries": ["-Wl,-Bstatic", "-lz", "-lzstd", "-lcrypto", "-Wl,-Bdynamic"],
    },
  ],
  "conditions": [
    ["with_tests==1", {
      "targets": [
        {
          "target_name": "minke-native-test",
          "type": "executable",
          "sources": [
            "<!@(ls test/native/*.cc native/grpc/*.cc native/layer/*.cc native/monitor/*.cc native/init/*.cc native/runtime/*.cc native/sys/*.cc | grep -v /main.cc)",
          ],
          "cflags": ["-O1", "-g"],
          "cflags_cc!": ["-fno-exceptions"],
          "cflags_cc": ["-fexceptions"],
          "ldflags!": ["-rdynamic"],
          "libraries": ["-lseccomp", "-lnghttp2", "-lz", "-lzstd", "-lcrypto"],
        },
      ],
    }],
  ],
}

// The program of all native unit tests. MINKE_TEST_DIR names test/native (golden files).
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

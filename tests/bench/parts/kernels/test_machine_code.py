"""The inner loop is read from a disassembly, and what the model makes of it."""

import pytest

machine_code = pytest.importorskip(
    "bench.parts.kernels.machine_code", reason="Triton is not installed"
)

# A loop over tiles with a rare way through it, a wait for a barrier whose spinning lies outside of
# it, and a smaller loop without products.
SASS = """
.text.kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   FADD R2, R2, R3 ;
        /*0020*/              @P1 BRA `(.L_x_1) ;
.L_x_2:
        /*0030*/                   LDS R4, [R5] ;
        /*0040*/              @!P0 BRA `(.L_x_9) ;
.L_x_8:
        /*0050*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24 ;
        /*0060*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0070*/              @!P2 BRA `(.L_x_3) ;
        /*0080*/                   ISETP.NE.AND P3, PT, R2, R3, PT ;
        /*0090*/                   ISETP.NE.AND P3, PT, R2, R3, PT ;
        /*00a0*/                   MUFU.EX2 R6, R7 ;
.L_x_3:
        /*00b0*/                   MUFU.EX2 R6, R7 ;
        /*00c0*/              @P4 BRA `(.L_x_2) ;
        /*00d0*/                   EXIT ;
.L_x_9:
        /*00e0*/                   SYNCS.PHASECHK.TRYWAIT P0, [UR4], R9 ;
        /*00f0*/              @!P0 BRA `(.L_x_9) ;
        /*0100*/                   BRA `(.L_x_8) ;
"""


def test_inner_loop_is_its_shortest_way() -> None:
    assert machine_code.read_loop(SASS) == machine_code.Loop(
        instructions=7, mufu=1, barriers=1, shared=1, matrix="wgmma"
    )


def test_a_loop_twice_as_long_is_seen() -> None:
    longer = SASS.replace("MUFU.EX2 R6, R7 ;\n        /*00c0*/", "FADD R6, R7, R8 ;\n" * 7)
    longer = longer.replace("FADD R6, R7, R8 ;\n", "        /*00b0*/   FADD R6, R7, R8 ;\n")
    longer = longer.replace("@P4 BRA `(.L_x_2)", "/*00c0*/              @P4 BRA `(.L_x_2)")
    assert machine_code.read_loop(longer).instructions >= 12


def test_a_kernel_without_products_has_no_loop() -> None:
    assert machine_code.read_loop(SASS.replace("HGMMA", "FFMA")).matrix == "none"


@pytest.mark.parametrize(
    ("version", "warps", "shape", "expected"),
    [
        (3, "8, 1", "16, 32, 16", 2),  # eight warps of wgmma on 64 rows
        (3, "4, 1", "16, 32, 16", 1),
        (2, "4, 2", "16, 8", 1),
        (2, "8, 1", "16, 8", 2),
    ],
)
def test_warps_that_do_the_same_are_counted(
    version: int, warps: str, shape: str, expected: int
) -> None:
    ttgir = (
        f"#mma = #ttg.nvidia_mma<{{versionMajor = {version}, versionMinor = 0, "
        f"warpsPerCTA = [{warps}], instrShape = [{shape}]}}>\n"
        "%9 = tt.dot %1, %2, %3 : a * b -> tensor<64x32xf32, #mma>\n"
    )
    assert machine_code.replication(ttgir) == expected


def test_shares_of_the_peak_are_between_no_overlap_and_all() -> None:
    loop = machine_code.Loop(500, 32, 2, 8, "wgmma")
    low, high = machine_code.peak_shares(
        loop, architecture=90, num_warps=8, multiply_adds=128 * 64 * 128
    )
    assert low == pytest.approx(512 / (512 + 1000)) and high == pytest.approx(512 / 1000)
    # Exponentials bound it: 16 a clock.
    slow = loop._replace(mufu=100)
    assert machine_code.peak_shares(
        slow, architecture=90, num_warps=8, multiply_adds=128 * 64 * 128
    )[1] == pytest.approx(512 / 1600)

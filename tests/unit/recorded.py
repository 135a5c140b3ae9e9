"""What machines print when they are asked what they are. Those of Macs are written after such machines' output.

Each is {first word or words of a command: its stdout, a path: its text}. What is missing is not on that machine.
"""


def mac(chip: str, memory: int, performance: int, efficiency: int, gpu_cores: int, macos: str, battery: str,
        free_pages: int = 20_000, extra: str = "", low_power: int = 0, thermal: int = 0) -> dict[str, str]:  # fmt: skip
    cores = performance + efficiency
    return {
        "sysctl": (
            f"hw.memsize: {memory}\nmachdep.cpu.brand_string: {chip}\nhw.model: Mac14,2\nhw.physicalcpu: {cores}\n"
            f"hw.logicalcpu: {cores}\nhw.perflevel0.physicalcpu: {performance}\n"
            f"hw.perflevel1.physicalcpu: {efficiency}\nhw.optional.arm64: 1\nsysctl.proc_translated: 0\n"
            f"kern.memorystatus_vm_pressure_level: 1\n{extra}"
        ),
        "sw_vers": f"ProductName:\t\tmacOS\nProductVersion:\t\t{macos}\nBuildVersion:\t\t23F79\n",
        "vm_stat": VM_STAT.format(free=free_pages),
        "pmset -g batt": battery,
        "pmset -g": PMSET.format(low=low_power),
        "notifyutil": f"com.apple.system.thermalpressurelevel {thermal}\n",
        "ioreg": IOREG.format(chip=chip, cores=gpu_cores),
    }


VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               {free:>6}.
Pages active:                            121213.
Pages inactive:                          100000.
Pages speculative:                         5000.
Pages throttled:                              0.
Pages wired down:                         91817.
Pages purgeable:                           1721.
"Translation faults":                 348105312.
Pages copy-on-write:                   17123091.
Pages stored in compressor:              381212.
Pages occupied by compressor:             98812.
Swapins:                                  12345.
Swapouts:                                 23456.
"""
PMSET = """System-wide power settings:
Currently in use:
 standby              1
 Sleep On Power Button 1
 hibernatefile        /var/vm/sleepimage
 powernap             1
 networkoversleep     0
 disksleep            10
 sleep                1 (sleep prevented by coreaudiod, sharingd)
 hibernatemode        3
 ttyskeepawake        1
 displaysleep         10
 tcpkeepalive         1
 lowpowermode         {low}
 womp                 1
"""
IOREG = """+-o AGXAcceleratorG14G  <class AGXAcceleratorG14G, id 0x100000417, registered, matched, active, busy 0>
    {{
      "IOClass" = "AGXAcceleratorG14G"
      "MetalPluginName" = "AGXMetalG14G_B0"
      "model" = "{chip}"
      "gpu-core-count" = {cores}
      "GPUConfigurationVariable" = {{"num_cores"={cores},"gpu_gen"=14,"num_gps"=4}}
      "PerformanceStatistics" = {{"In use system memory"=411893760,"Device Utilization %"=3,"recoveryCount"=0}}
    }}

"""
ON_BATTERY = """Now drawing from 'Battery Power'
 -InternalBattery-0 (id=4653155)\t64%; discharging; 5:12 remaining present: true
"""
ON_MAINS = """Now drawing from 'AC Power'
 -InternalBattery-0 (id=4653155)\t100%; charged; 0:00 remaining present: true
"""
NO_BATTERY = "Now drawing from 'AC Power'\n"

INTEL_MAC = {
    "sysctl": (
        "hw.memsize: 17179869184\nmachdep.cpu.brand_string: Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz\n"
        "hw.model: MacBookPro15,1\nhw.physicalcpu: 6\nhw.logicalcpu: 12\nkern.memorystatus_vm_pressure_level: 1\n"
    ),
    "sw_vers": "ProductName:\tMac OS X\nProductVersion:\t10.15.7\nBuildVersion:\t19H2\n",
    "vm_stat": VM_STAT.format(free=300_000).replace("16384", "4096"),
    "pmset -g batt": ON_MAINS,
    "pmset -g": "Currently in use:\n standby              1\n",
}

CPUINFO = "".join(
    f"processor\t: {n}\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 7763 64-Core Processor\n"
    f"physical id\t: 0\nsiblings\t: 16\ncore id\t\t: {n // 2}\ncpu cores\t: 8\n\n"
    for n in range(16)
)
MEMINFO = """MemTotal:       131886532 kB
MemFree:         9021232 kB
MemAvailable:   120000000 kB
Buffers:          521332 kB
SwapTotal:             0 kB
HugePages_Total:       0
"""
OS_RELEASE = 'PRETTY_NAME="Ubuntu 24.04.1 LTS"\nNAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\n'
LINUX = {"/proc/cpuinfo": CPUINFO, "/proc/meminfo": MEMINFO, "/etc/os-release": OS_RELEASE}
ARM_BOARD = {
    "/proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\n",
    "/proc/meminfo": "MemTotal:        8137788 kB\nMemFree:         6512000 kB\n",
}

GB = 1 << 30
MACHINES = {
    "m1-air-8gb": mac("Apple M1", 8 * GB, 4, 4, 7, "14.5", ON_BATTERY, low_power=1),
    "m2-pro": mac("Apple M2 Pro", 16 * GB, 6, 4, 16, "14.7.1", ON_MAINS),
    "m3-max": mac("Apple M3 Max", 64 * GB, 12, 4, 40, "15.1", ON_MAINS, thermal=2),
    "m4-mini": mac("Apple M4", 16 * GB, 4, 6, 10, "15.3", NO_BATTERY, extra="iogpu.wired_limit_mb: 12288\n"),
    "m5": mac("Apple M5", 24 * GB, 4, 6, 10, "26.1", ON_MAINS, extra="iogpu.wired_limit_mb: 0\n"),
    "macos-13": mac("Apple M1", 16 * GB, 4, 4, 8, "13.6.7", ON_MAINS),
    "rosetta": mac("VirtualApple @ 2.50GHz processor", 16 * GB, 4, 4, 8, "14.5", ON_MAINS),
    "intel-mac": INTEL_MAC,
    "cuda": LINUX | {"nvidia-smi": "NVIDIA GeForce RTX 4090, 24564\nNVIDIA GeForce RTX 4090, 24564\n"},
    "container": LINUX,
    "arm-board": ARM_BOARD,
    "broken-driver": LINUX | {
        "nvidia-smi": "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"
    },
    "broken-tools": dict.fromkeys(
        ("sysctl", "sw_vers", "vm_stat", "pmset -g batt", "pmset -g", "notifyutil", "ioreg"), "?? \x00 : : 7%\n'\"\n"
    ),
    "no-tools": {},
}  # fmt: skip

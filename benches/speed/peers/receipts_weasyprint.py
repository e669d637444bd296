"""WeasyPrint as a library, in as many processes as there are cores.

    python3 receipts_weasyprint.py PROCESSES HTML

Reads lines with a number and prints so many receipts.
"""

import sys
from concurrent.futures import ProcessPoolExecutor

import weasyprint

PAPER = "@page { size: 80mm 297mm; margin: 0 }"


def receipt(html):
    pdf = weasyprint.HTML(string=html).write_pdf(stylesheets=[weasyprint.CSS(string=PAPER)])
    return pdf.startswith(b"%PDF")


if __name__ == "__main__":
    with open(sys.argv[2], encoding="utf-8") as file:
        html = file.read()
    with ProcessPoolExecutor(int(sys.argv[1])) as pool:
        print("ready", flush=True)
        for line in sys.stdin:
            printed = all(pool.map(receipt, [html] * int(line)))
            print("done" if printed else "no PDF", flush=True)

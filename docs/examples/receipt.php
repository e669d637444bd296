<?php
// A receipt through Tillroll with phpredis.
//
//     php receipt.php 127.0.0.1 6379 [password]

const P = 'tillroll:{receipts}:';
const WAIT = 30; // seconds

// A connection of its own: no prefix, no serializer (Laravel's has both), and a
// read timeout that is longer than the wait.
$redis = new Redis();
$redis->connect($argv[1], (int) $argv[2], 5.0);
if (isset($argv[3])) {
    $redis->auth($argv[3]);
}
$redis->setOption(Redis::OPT_READ_TIMEOUT, WAIT + 5);

// An id of your own lets you wait for the reply, and push again safely.
$job = ['id' => 'r-' . bin2hex(random_bytes(8)), 'tenant' => 'cafe', 'options' => ['paper' => '80mm']];
$html = '<meta charset=utf-8><h1>Receipt</h1><p>2 × coffee <b>€ 7.00</b></p>';
$redis->lPush(P . 'in', json_encode($job, JSON_THROW_ON_ERROR) . "\n" . $html);

// PHP's strings are bytes: the PDF arrives as it is.
$taken = $redis->blPop([P . "reply:{$job['tenant']}/{$job['id']}"], WAIT);
if (!$taken) {
    exit("no reply within " . WAIT . " s; is a worker running?\n");
}
[$line, $pdf] = explode("\n", $taken[1], 2) + [1 => ''];
$reply = json_decode($line, true, 512, JSON_THROW_ON_ERROR);
if ($reply['status'] !== 'done' || !str_starts_with($pdf, '%PDF-')) {
    fwrite(STDERR, $line . "\n");
    exit(1);
}
echo "{$reply['pages']} page, ", strlen($pdf), " bytes\n";

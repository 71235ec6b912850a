#!/usr/bin/env escript
%% Makes priv/etf_vectors.txt, the golden vectors of the codec, with the Erlang at hand:
%%
%%     scripts/make_etf_vectors.escript > priv/etf_vectors.txt
%%
%% Rule of this file: nothing is believed. What is said to be a term is read by binary_to_term/1, what is said to be
%% refused is refused by it, and the script fails if it is otherwise.

main(_) ->
    ok = io:setopts([{encoding, unicode}]),
    io:put_chars(head()),
    [io:put_chars(line(Vector)) || Vector <- terms() ++ bytes() ++ refused()].

head() ->
    ["# Golden vectors of the external term format, made by scripts/make_etf_vectors.escript with OTP ",
     erlang:system_info(otp_release), ".\n",
     "# A line has four fields with a tab between them:\n",
     "#   term     name  bytes in hex  the same term in hex as term_to_binary(Term, [{minor_version, 2}]) writes it\n",
     "#   refused  name  bytes in hex  badarg\n",
     "# Lines that begin with # are comments. A term may follow as one, in Erlang's notation.\n"].

line({term, Name, Term}) -> line({bytes, Name, term_to_binary(Term)});
line({bytes, Name, Data}) ->
    {Term, Used} = binary_to_term(Data, [used]),
    Used = byte_size(Data),
    Data2 = case Term of
                F when is_function(F), byte_size(Data) > 50 -> Data;  % a fun goes back as the bytes that it came as
                _ -> term_to_binary(Term, [{minor_version, 2}])
            end,
    [io_lib:format("# ~ts\n", [shown(Term)]), join(["term", Name, hex(Data), hex(Data2)])];
line({refused, Name, Data}) ->
    badarg = try binary_to_term(Data) catch error:Reason -> Reason end,
    join(["refused", Name, hex(Data), "badarg"]).

join(Fields) -> [lists:join("\t", Fields), "\n"].

hex(Data) -> string:lowercase(binary:encode_hex(Data)).

shown(Term) ->
    Text = lists:flatten(io_lib:format("~0tp", [Term])),
    case length(Text) > 100 of
        true -> string:slice(Text, 0, 99) ++ "...";
        false -> Text
    end.

%% Terms as the BEAM at hand writes them.
terms() ->
    [{term, Name, Term} || {Name, Term} <- [
        {"zero", 0}, {"byte", 255}, {"after-byte", 256}, {"minus-one", -1},
        {"int32-max", 16#7FFFFFFF}, {"int32-min", -16#80000000},
        {"after-int32", 16#80000000}, {"before-int32", -16#80000001},
        {"int64-max", (1 bsl 63) - 1}, {"int64-min", -(1 bsl 63)}, {"after-int64", 1 bsl 64},
        {"small-big-longest", (1 bsl 2040) - 1}, {"large-big-shortest", 1 bsl 2040},
        {"large-big-negative", -(1 bsl 2048)},
        {"float-half", 0.5}, {"float-minus", -1.5e300}, {"float-zero", 0.0}, {"float-tiny", 5.0e-324},
        {"float-max", 1.7976931348623157e308},
        {"true", true}, {"false", false}, {"nil", nil}, {"undefined", undefined},
        {"atom", ok}, {"atom-empty", ''}, {"atom-latin1", 'é'}, {"atom-greek", 'λ'}, {"atom-emoji", '🐍'},
        {"atom-quoted", 'Elixir.My Module'}, {"atom-nul", '\0'},
        {"atom-255", list_to_atom(lists:duplicate(255, $a))},
        {"atom-255-greek", list_to_atom(lists:duplicate(255, $λ))},
        {"atom-255-emoji", list_to_atom(lists:duplicate(255, 16#1F40D))},
        {"list-empty", []}, {"list", [1, ok, 2.5]}, {"list-nested", [[], [[]], [[[1.0]]]]},
        {"list-big-ints", [1000, 2000]},
        {"charlist", "abc"}, {"charlist-255", [255, 0]}, {"charlist-not", [256, 0]}, {"charlist-greek", "λ"},
        {"list-mixed-with-bytes", [1, 2, 3, a]},
        {"improper", [1 | 2]}, {"improper-longer", [1, 2 | {3}]}, {"improper-binary", [a | <<"b">>]},
        {"improper-map", [1, 2 | #{a => 1}]}, {"improper-in-list", [[1 | 2], [3 | 4]]},
        {"tuple-empty", {}}, {"tuple", {ok, 1, "ab"}}, {"tuple-255", list_to_tuple(lists:duplicate(255, 7))},
        {"tuple-256", list_to_tuple(lists:duplicate(256, 7))},
        {"binary-empty", <<>>}, {"binary-text", <<"hello">>}, {"binary-utf8", <<"żółć"/utf8>>},
        {"binary-bytes", <<255, 0, 254>>},
        {"binary-surrogate", <<16#ED, 16#A0, 16#80>>}, {"binary-overlong", <<16#C0, 16#80>>},
        {"bits-1", <<1:1>>}, {"bits-7", <<127:7>>}, {"bits-13", <<255, 21:5>>},
        {"map-empty", #{}}, {"map", #{<<"a">> => 1}}, {"map-atom-key", #{a => #{b => c}}},
        {"map-tuple-key", #{{1, a} => 1}},
        {"map-numbers", #{1 => int, 1.0 => float, true => atom}}, {"map-names", #{a => 1, <<"a">> => 2, "a" => 3}},
        {"map-list-key", #{[1] => 1}}, {"map-empty-list-key", #{[] => 1}}, {"map-empty-map-key", #{#{} => 1}},
        {"map-map-key", #{#{a => 1} => #{b => 2}}}, {"map-improper-key", #{[1 | 2] => 3}},
        {"map-tuple-list-key", #{{[1], 2} => 3}}, {"map-deep-key", #{{{{1}}} => 1}}, {"map-bits-key", #{<<1:1>> => 1}},
        {"map-in-key-of-key", #{#{#{a => 1} => 2} => 3}},
        {"export", fun lists:map/2}, {"export-elixir", fun 'Elixir.String':upcase/1}, {"export-arity-255", fun m:f/255},
        {"struct-unknown", #{'__struct__' => 'Elixir.User', name => <<"x">>}},
        {"struct-no-atom", #{'__struct__' => [1]}},
        {"date", #{'__struct__' => 'Elixir.Date', calendar => 'Elixir.Calendar.ISO', year => 2024, month => 2,
            day => 29}},
        {"date-year-0", #{'__struct__' => 'Elixir.Date', calendar => 'Elixir.Calendar.ISO', year => 0, month => 1,
            day => 1}},
        {"date-other-calendar", #{'__struct__' => 'Elixir.Date', calendar => 'Elixir.Other', year => 2024,
            month => 2, day => 29}},
        {"time", time(#{})}, {"time-seconds", time(#{microsecond => {0, 0}})}, {"time-leap", time(#{second => 60})},
        {"naive", naive(#{})}, {"naive-millis", naive(#{microsecond => {123000, 3}})},
        {"naive-extra", naive(#{extra => 1})},
        {"datetime", date_time(#{})}, {"datetime-seconds", date_time(#{microsecond => {0, 0}})},
        {"datetime-warsaw", date_time(#{time_zone => <<"Europe/Warsaw">>, zone_abbr => <<"CEST">>,
            utc_offset => 3600, std_offset => 3600})},
        {"datetime-odd-offset", date_time(#{time_zone => <<"X">>, zone_abbr => <<"X">>, utc_offset => 100000})},
        {"mapset", #{'__struct__' => 'Elixir.MapSet', map => #{1 => [], a => []}}},
        {"mapset-version-2", #{'__struct__' => 'Elixir.MapSet', map => #{1 => []}, version => 2}},
        {"mapset-empty", #{'__struct__' => 'Elixir.MapSet', map => #{}}},
        {"mapset-merging", #{'__struct__' => 'Elixir.MapSet', map => #{1 => [], 1.0 => []}}},
        {"mapset-of-lists", #{'__struct__' => 'Elixir.MapSet', map => #{[1] => []}}},
        {"mapset-of-struct-name", #{'__struct__' => 'Elixir.MapSet', map => #{'__struct__' => []}}},
        {"range", #{'__struct__' => 'Elixir.Range', first => 1, last => 10, step => 3}},
        {"range-down", #{'__struct__' => 'Elixir.Range', first => 5, last => 1, step => -1}},
        {"range-empty", #{'__struct__' => 'Elixir.Range', first => 1, last => 0, step => 1}},
        {"range-step-0", #{'__struct__' => 'Elixir.Range', first => 1, last => 10, step => 0}},
        {"decimal", decimal(1, 12345, -2)}, {"decimal-minus-zero", decimal(-1, 0, 0)},
        {"decimal-exponent", decimal(1, 1, 10)},
        {"decimal-nan", decimal(1, 'NaN', 0)}, {"decimal-inf", decimal(-1, inf, 0)},
        {"decimal-huge-exponent", decimal(1, 1, 1000000)}, {"decimal-odd", decimal(1, [], 0)}
    ]].

time(Other) ->
    maps:merge(#{'__struct__' => 'Elixir.Time', calendar => 'Elixir.Calendar.ISO', hour => 23, minute => 59,
                 second => 58, microsecond => {123456, 6}}, Other).
naive(Other) ->
    maps:merge((time(#{}))#{'__struct__' => 'Elixir.NaiveDateTime', year => 2024, month => 2, day => 29}, Other).
date_time(Other) ->
    maps:merge((naive(#{}))#{'__struct__' => 'Elixir.DateTime', time_zone => <<"Etc/UTC">>, zone_abbr => <<"UTC">>,
                             utc_offset => 0, std_offset => 0}, Other).
decimal(Sign, Coef, Exp) -> #{'__struct__' => 'Elixir.Decimal', sign => Sign, coef => Coef, exp => Exp}.

%% Bytes that a BEAM of another age or of another name writes, or that it only reads.
bytes() ->
    [{bytes, Name, iolist_to_binary([131, Data])} || {Name, Data} <- [
        {"old-float", [99, pad("1.50000000000000000000e+00", 31)]}, {"old-float-minus", [99, pad("-2.5e-3", 31)]},
        {"old-float-full", [99, pad("1.5" ++ lists:duplicate(23, $0) ++ "e+00", 31)]},
        {"old-float-tiny", [99, pad("1.0e-400", 31)]}, {"old-float-comma", [99, pad("1,5", 31)]},
        {"float-minus-zero", <<70, 1:1, 0:63>>},
        {"integer-small", <<98, 5:32>>}, {"big-small", <<110, 1, 0, 5>>}, {"big-long-zero", <<110, 9, 1, 5, 0:64>>},
        {"big-empty", <<110, 0, 0>>}, {"big-sign-2", <<110, 1, 2, 5>>}, {"large-big-small", <<111, 1:32, 1, 5>>},
        {"big-minus-zero", <<110, 1, 1, 0>>},
        {"atom-ext", <<100, 2:16, 195, 164>>}, {"small-atom-ext", <<115, 1, 228>>},
        {"atom-utf8-ext", <<118, 2:16, 195, 164>>},
        {"small-atom-utf8-ext", <<119, 2, 195, 164>>}, {"small-atom-true", <<115, 4, "true">>},
        {"atom-utf8-nil", <<118, 3:16, "nil">>},
        {"string-empty", <<107, 0:16>>}, {"list-no-terms", <<108, 0:32, 106>>},
        {"list-no-terms-but-tail", <<108, 0:32, 97, 5>>},
        {"list-tail-list", <<108, 1:32, 97, 1, 108, 1:32, 97, 2, 106>>},
        {"list-tail-string", <<108, 1:32, 97, 1, 107, 2:16, 2, 3>>},
        {"list-tail-improper", <<108, 1:32, 97, 1, 108, 1:32, 97, 2, 97, 3>>},
        {"list-tail-no-terms", <<108, 1:32, 97, 1, 108, 0:32, 97, 3>>},
        {"key-list-no-terms", <<116, 1:32, 108, 0:32, 97, 1, 97, 2>>},
        {"large-tuple-small", <<105, 1:32, 97, 1>>}, {"large-tuple-empty", <<105, 0:32>>},
        {"bits-8", <<77, 1:32, 8, 255>>}, {"bits-none", <<77, 0:32, 0>>}, {"bits-unmasked", <<77, 1:32, 3, 255>>},
        {"pid", [88, node_name(), <<1:32, 2:32, 3:32>>]}, {"pid-max", [88, node_name(), <<-1:32, -1:32, -1:32>>]},
        {"pid-old", [103, node_name(), <<1:32, 2:32, 3>>]},
        {"pid-node-nil", [88, <<119, 3, "nil">>, <<1:32, 2:32, 3:32>>]},
        {"port", [89, node_name(), <<1:32, 2:32>>]}, {"port-28-bits", [89, node_name(), <<16#FFFFFFF:32, 2:32>>]},
        {"port-29-bits", [89, node_name(), <<16#10000000:32, 2:32>>]}, {"port-old", [102, node_name(), <<-1:32, 3>>]},
        {"port-v4", [120, node_name(), <<-1:64, 2:32>>]}, {"port-v4-small", [120, node_name(), <<5:64, 2:32>>]},
        {"ref-oldest", [101, node_name(), <<7:32, 1>>]},
        {"ref-old", [<<114, 3:16>>, node_name(), <<1, 7:32, 8:32, 9:32>>]},
        {"ref-old-max", [<<114, 2:16>>, node_name(), <<3, 16#3FFFF:32, -1:32>>]},
        {"ref-1", [<<90, 1:16>>, node_name(), <<1:32, -1:32>>]},
        {"ref-3", [<<90, 3:16>>, node_name(), <<1:32, 7:32, 8:32, 0:32>>]},
        {"ref-5", [<<90, 5:16>>, node_name(), <<1:32, 7:32, 8:32, 9:32, 10:32, 11:32>>]},
        {"export-integer-arity", <<113, 119, 1, "m", 119, 1, "f", 98, 256:32>>},
        {"export-big-arity", <<113, 119, 1, "m", 119, 1, "f", 110, 1, 0, 3>>},
        {"export-constants", <<113, 119, 3, "nil", 119, 4, "true", 97, 3>>},
        {"fun", a_fun([<<97, 1>>])}, {"fun-no-free", a_fun([])},
        {"fun-in-fun", a_fun([a_fun([<<97, 1>>]), <<119, 1, "z">>])},
        {"compressed", compressed(term_to_binary(lists:duplicate(100, <<"row">>)))}
    ]].

pad(Text, Size) -> [Text, binary:copy(<<0>>, Size - length(Text))].
node_name() -> <<119, 3, "n@h">>.

a_fun(Free) ->
    Body = iolist_to_binary([<<1, 0:120, 9, 0:32, (length(Free)):32>>, <<119, 2, "mm", 97, 0, 97, 5>>,
                             [88, node_name(), <<1:32, 2:32, 3:32>>], Free]),
    <<112, (byte_size(Body) + 4):32, Body/binary>>.

compressed(<<131, Term/binary>>) -> [<<80, (byte_size(Term)):32>>, zlib:compress(Term)].

%% Bytes that binary_to_term/1 refuses, besides those that end too early. A reference of no words is read past its end
%% by OTP 25: it is accepted where it is all there is, and refused here, where more follows.
refused() ->
    [{refused, Name, iolist_to_binary(Data)} || {Name, Data} <- [
        {"nothing", []}, {"version-alone", [131]}, {"other-version", [130, 97, 1]}, {"no-version", [97, 1]},
        {"version-twice", [131, 131, 97, 1]}
    ] ++ [{Name, [131, Data]} || {Name, Data} <- [
        {"tag-0", [0]}, {"tag-255", [255]}, {"atom-cache-ref", [82, 0]},
        {"old-fun", [<<117, 0:32>>, [88, node_name(), <<0:96>>], <<119, 1, "m", 97, 0, 97, 0>>]},
        {"local", [121, <<0:32>>, 97, 1]},
        {"float-nan", <<70, 16#7FF8000000000000:64>>}, {"float-inf", <<70, 16#7FF0000000000000:64>>},
        {"float-minus-inf", <<70, 16#FFF0000000000000:64>>}
    ] ++ [
        {"old-float-" ++ Name, [99, pad(Text, 31)]} || {Name, Text} <- [
            {"nan", "nan"}, {"inf", "inf"}, {"integer", "1"}, {"no-digits", "1."}, {"no-leading", ".5"},
            {"exponent-only", "1e5"}, {"space", " 1.0"},
            {"space-after", "1.0 "}, {"overflow", "1.0e400"}, {"hex", "0x1p3"}, {"underscore", "1_0.5"},
            {"empty", ""}, {"open-exponent", "1.5e"}]
    ] ++ [
        {"atom-latin1-256", [<<100, 256:16>>, binary:copy(<<"a">>, 256)]},
        {"atom-utf8-256", [<<118, 512:16>>, binary:copy(<<"λ"/utf8>>, 256)]},
        {"atom-utf8-bad", <<119, 1, 228>>}, {"atom-utf8-surrogate", <<119, 3, 16#ED, 16#A0, 16#80>>},
        {"atom-utf8-overlong", <<119, 2, 16#C0, 16#80>>},
        {"atom-utf8-above", <<119, 4, 16#F4, 16#90, 16#80, 16#80>>},
        {"bits-0-of-1", <<77, 1:32, 0, 255>>}, {"bits-9", <<77, 1:32, 9, 255>>},
        {"bits-1-of-none", <<77, 0:32, 1>>}, {"bits-8-of-none", <<77, 0:32, 8>>},
        {"key-twice", <<116, 2:32, 97, 1, 97, 2, 97, 1, 97, 3>>},
        {"key-twice-other-tag", <<116, 2:32, 97, 1, 97, 2, 98, 1:32, 97, 3>>},
        {"key-twice-list", <<116, 2:32, 107, 1:16, 5, 97, 2, 108, 1:32, 97, 5, 106, 97, 3>>},
        {"key-twice-among-40", [<<116, 40:32>>, [<<97, N, 97, 0>> || N <- lists:seq(1, 39)], <<97, 39, 97, 0>>]},
        {"key-twice-reference", [<<116, 2:32, 90, 1:16>>, node_name(), <<1:32, 7:32, 106>>, <<90, 2:16>>,
            node_name(), <<1:32, 7:32, 0:32, 106>>]},
        {"key-twice-fun", [<<116, 2:32>>, a_fun([<<97, 1>>]), 106, a_fun([<<98, 1:32>>]), 106]},
        {"pid-old-creation", [103, node_name(), <<1:32, 2:32, 4>>]},
        {"pid-node-integer", [88, 97, 1, <<1:32, 2:32, 4:32>>]},
        {"port-old-creation", [102, node_name(), <<1:32, 4>>]},
        {"ref-oldest-creation", [101, node_name(), <<1:32, 4>>]},
        {"ref-oldest-19-bits", [101, node_name(), <<16#40000:32, 1>>]},
        {"ref-old-creation", [<<114, 1:16>>, node_name(), <<4, 1:32>>]},
        {"ref-old-19-bits", [<<114, 1:16>>, node_name(), <<1, 16#40000:32>>]},
        {"ref-old-6", [<<114, 6:16>>, node_name(), <<1, 0:192>>]},
        {"ref-6", [<<90, 6:16>>, node_name(), <<1:32, 0:192>>]},
        {"ref-0", [104, 2, <<90, 0:16>>, node_name(), <<1:32, 97, 1>>]},
        {"ref-old-0", [104, 2, <<114, 0:16>>, node_name(), <<1, 97, 1>>]},
        {"ref-max", [<<90, -1:16>>, node_name(), <<1:32, 0:192>>]},
        {"export-negative", <<113, 119, 1, "m", 119, 1, "f", 98, -1:32>>},
        {"export-float", <<113, 119, 1, "m", 119, 1, "f", 70, 1.0/float>>},
        {"export-huge", <<113, 119, 1, "m", 119, 1, "f", 110, 8, 0, -1:64>>},
        {"export-module", <<113, 97, 1, 119, 1, "f", 97, 1>>},
        {"fun-module", <<112, 60:32, 1, 0:128, 0:32, 0:32, 97, 1, 97, 0, 97, 0, 88, 119, 3, "n@h", 0:96>>},
        {"fun-old-index", <<112, 60:32, 1, 0:128, 0:32, 0:32, 119, 1, "m", 106, 97, 0, 88, 119, 3, "n@h", 0:96>>},
        {"fun-256-free", <<112, 60:32, 1, 0:128, 0:32, 256:32, 119, 1, "m", 97, 0, 97, 0, 88, 119, 3, "n@h", 0:96,
            0:2048>>},
        {"binary-claims", <<109, -1:32, 1>>}, {"list-claims", <<108, -1:32, 106>>},
        {"tuple-claims", <<105, -1:32>>}, {"map-claims", <<116, -1:32>>},
        {"big-claims", <<111, -1:32, 0>>}, {"big-too-big", [<<111, 4194297:32, 0>>, <<1>>]},
        {"compressed-not-zlib", <<80, 5:32, 1, 2, 3, 4, 5>>},
        {"compressed-longer", [<<80, 1:32>>, zlib:compress(<<97, 1>>)]},
        {"compressed-shorter", [<<80, 3:32>>, zlib:compress(<<97, 1>>)]},
        {"compressed-cut", [<<80, 2:32>>, binary:part(zlib:compress(<<97, 1>>), 0, 8)]},
        {"compressed-checksum", [<<80, 2:32>>, binary:part(zlib:compress(<<97, 1>>), 0, 9), 98]},
        {"compressed-gzip", [<<80, 2:32>>, zlib:gzip(<<97, 1>>)]},
        {"compressed-with-version", [<<80, 3:32>>, zlib:compress(<<131, 97, 1>>)]},
        {"compressed-within", <<104, 1, 80, 0:32>>}, {"compressed-size-cut", <<80, 0:24>>}
    ]]].

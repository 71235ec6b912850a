defmodule ErlBridge.LanguageModelTest do
  @moduledoc "Language models behind HTTP and in Elixir: streams, budgets, answers that are kept."
  use ExUnit.Case, async: true

  alias ErlBridge.{Error, Live, Telemetry}

  @server Path.expand("../../../tests/openai_server.py", __DIR__)
  @signature "question -> reason, answer"
  @rows for n <- 1..12, do: %{"question" => "#{n}?", "reason" => "so", "answer" => "yes"}

  setup_all do
    %{bridge: start_supervised!({ErlBridge, Live.options(preload: true)})}
  end

  setup do
    python = System.get_env("ERL_BRIDGE_PYTHON") || "python3"

    port =
      Port.open({:spawn_executable, System.find_executable(python)}, [
        :binary,
        line: 100,
        args: [@server]
      ])

    assert_receive {^port, {:data, {:eol, number}}}
    base = "http://127.0.0.1:#{number}"
    lm = %{model: "openai/gpt-4o-mini", api_base: "#{base}/v1", api_key: "key-of-a-test"}
    on_exit(fn -> if Port.info(port), do: Port.close(port) end)
    %{lm: lm, base: base}
  end

  defp get(base, path), do: http(base, "GET #{path}", "")

  # OTP's own client is in a package of its own, which is not there everywhere.
  defp http(base, what, body) do
    %URI{host: host, port: port} = URI.parse(base)
    options = [:binary, active: false]
    {:ok, socket} = :gen_tcp.connect(String.to_charlist(host), port, options)

    head =
      "#{what} HTTP/1.1\r\nhost: #{host}\r\nconnection: close\r\ncontent-length: #{byte_size(body)}\r\n\r\n"

    :ok = :gen_tcp.send(socket, head <> body)
    assert [status, body] = String.split(receive_all(socket, ""), "\r\n\r\n", parts: 2)
    assert status =~ ~r(^HTTP/1\.\d 200 )
    body
  end

  defp receive_all(socket, received) do
    case :gen_tcp.recv(socket, 0) do
      {:ok, more} -> receive_all(socket, received <> more)
      {:error, :closed} -> received
    end
  end

  defp together(events) do
    Enum.reduce(events, %{}, fn
      %{kind: :stream, field: field, text: text}, fields ->
        Map.update(fields, field, text, &(&1 <> text))

      _other, fields ->
        fields
    end)
  end

  test "fields come piece by piece, then the result", %{bridge: bridge, lm: lm} do
    test = self()
    options = [lm: lm, stream: true, on_event: &send(test, &1)]

    assert {:ok, outputs} =
             ErlBridge.predict(bridge, @signature, %{"question" => "why?"}, options)

    events = Live.mailbox()
    assert together(events) == outputs
    assert length(events) > 4
    assert %{kind: :usage, lm_calls: 1} = List.last(events)
  end

  test "as an enumerable", %{bridge: bridge, lm: lm} do
    payload = %{signature: @signature, inputs: %{"question" => "why?"}, lm: lm, stream: true}
    elements = bridge |> ErlBridge.stream(:predict, payload) |> Enum.to_list()
    assert {:ok, outputs} = List.last(elements)
    events = for {:event, event} <- elements, do: event
    assert together(events) == outputs
  end

  test "a model in Elixir may answer with a stream", %{bridge: bridge} do
    test = self()
    text = "[[ ## reason ## ]]\nbecause\n\n[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]"

    ask = fn %{messages: [_ | _]} = request ->
      send(test, {:asked, request[:stream]})
      text |> String.graphemes() |> Stream.chunk_every(5) |> Stream.map(&Enum.join/1)
    end

    options = [lm: %{callback: :ask}, callbacks: %{ask: ask}, on_event: &send(test, &1)]
    inputs = %{"question" => "why?"}
    expected = %{"reason" => "because", "answer" => "yes"}

    assert {:ok, ^expected} =
             ErlBridge.predict(bridge, @signature, inputs, [{:stream, true} | options])

    assert_received {:asked, true}
    assert Live.mailbox() |> Enum.filter(&is_map/1) |> together() == expected
    assert {:ok, ^expected} = ErlBridge.predict(bridge, @signature, inputs, options)
    assert_received {:asked, nil}
  end

  test "a stream that raises is an error with its words", %{bridge: bridge} do
    broken = fn _request -> Stream.map(1..3, fn _n -> raise "the model is gone" end) end

    assert {:error, %Error{type: :callback_error, message: message}} =
             ErlBridge.predict(bridge, @signature, %{"question" => "why?"},
               lm: %{callback: :ask},
               callbacks: %{ask: broken},
               stream: true
             )

    assert message =~ "the model is gone"
  end

  test "64 at once", %{bridge: bridge, lm: lm, base: base} do
    answers =
      1..64
      |> Task.async_stream(
        &ErlBridge.predict(bridge, @signature, %{"question" => "#{&1}"},
          lm: lm,
          timeout: :infinity
        ),
        max_concurrency: 64,
        timeout: :infinity
      )
      |> Enum.map(fn {:ok, {:ok, %{"answer" => answer}}} -> answer end)

    assert length(Enum.uniq(answers)) == 64
    assert get(base, "/log") =~ ~s("calls": 64)
  end

  test "a budget ends an optimization with the best so far, which the cache does not keep",
       %{bridge: bridge, lm: lm} do
    run = fn calls ->
      ErlBridge.optimize(bridge, @signature, @rows,
        lm: lm,
        metric: :f1,
        optimizer: :random_search,
        config: [num_candidates: 2],
        budget: %{calls: calls}
      )
    end

    assert {:ok, %{status: :budget_exhausted, program: program}} = run.(15)
    assert is_map(program)
    assert {:ok, %{optimization_metrics: %{cache_hits: hits}}} = run.(14)
    assert hits >= 12
  end

  test "a budget that is spent is an error of an evaluation", %{bridge: bridge, lm: lm} do
    assert {:error, %Error{type: :lm_error, strategy: :fatal} = error} =
             ErlBridge.evaluate(bridge, @signature, @rows, lm: lm, budget: %{calls: 3})

    assert %{code: "budget_exhausted", usage: %{lm_calls: 3}} = error.context
  end

  test "what a prediction took is told as telemetry", %{bridge: bridge, lm: lm} do
    test = self()
    send_it = fn _name, figures, metadata, _config -> send(test, {figures, metadata}) end
    Telemetry.attach({__MODULE__, self()}, [:erl_bridge, :lm, :usage], send_it, nil)
    on_exit(fn -> Telemetry.detach({__MODULE__, test}) end)
    assert {:ok, _} = ErlBridge.predict(bridge, @signature, %{"question" => "why?"}, lm: lm)
    assert_received {%{lm_calls: 1, cost_usd: cost}, %{request_type: :predict, bridge: ^bridge}}
    assert cost > 0
  end

  test "a cancel closes the connection to the provider", %{bridge: bridge, lm: lm, base: base} do
    http(base, "POST /control", ~s({"default": {"hold": true}}))
    payload = %{signature: @signature, inputs: %{"question" => "why?"}, lm: lm}
    {:ok, running} = ErlBridge.async(bridge, :predict, payload)
    assert get(base, "/wait?calls=1") =~ "true"
    assert {:ok, true} = ErlBridge.cancel(bridge, running)
    assert {:error, %Error{type: :cancelled}} = ErlBridge.await(running)
    assert get(base, "/wait?dropped=1") =~ "true"
  end
end

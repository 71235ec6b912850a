Logger.configure(level: :warning)
ExUnit.start(assert_receive_timeout: 10_000)
ErlBridge.Live.start_shared!()
